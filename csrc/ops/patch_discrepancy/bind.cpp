#include "core/check.h"
#include "core/cpu_level.h"
#include "core/dispatch.h"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad {

MEDAD_DECLARE_CPU(patch_discrepancy_cpu, (const DiscrepancyJob& job))
MEDAD_DECLARE_CPU(patch_discrepancy_backward_cpu, (const DiscrepancyJob& job))

namespace {

void check_like(const TensorView& view, const TensorView& like, const char* name) {
  MEDAD_CHECK(view.dims == 4, name << ": 4 axes (B, C, H, W) expected, got " << view.dims);
  MEDAD_CHECK(view.dtype == like.dtype, name << ": the features' type expected");
  for (int d = 0; d < 4; ++d) {
    MEDAD_CHECK(view.shape[d] == like.shape[d], name << ": the features' shape expected");
  }
}

DiscrepancySide side_of(const TensorView& view) {
  return {view.data, view.strides[0], view.strides[1], view.strides[2], view.strides[3]};
}

DiscrepancyHead head_of(const std::vector<TensorView>& heads, size_t layer, const TensorView& map) {
  const TensorView &w1 = heads[4 * layer], &b1 = heads[4 * layer + 1], &w2 = heads[4 * layer + 2],
                   &b2 = heads[4 * layer + 3];
  for (const TensorView* part : {&w1, &b1, &w2, &b2}) {
    MEDAD_CHECK(part->dtype == map.dtype, "heads: the features' type expected");
    MEDAD_CHECK(part->is_contiguous(), "heads: contiguous tensors expected");
  }
  MEDAD_CHECK(w1.dims == 2 && w2.dims == 2 && b1.dims == 1 && b2.dims == 1,
              "heads: w1 (D1, C), b1 (D1), w2 (D2, D1), b2 (D2) expected");
  MEDAD_CHECK(w1.shape[1] == map.shape[1], "heads: w1 (D1, C) of the features' C expected");
  MEDAD_CHECK(b1.shape[0] == w1.shape[0] && w2.shape[1] == w1.shape[0],
              "heads: b1 (D1) and w2 (D2, D1) of w1's D1 expected");
  MEDAD_CHECK(b2.shape[0] == w2.shape[0], "heads: b2 (D2) of w2's D2 expected");
  return {w1.data, b1.data, w2.data, b2.data, w1.shape[0], w2.shape[0]};
}

std::vector<DiscrepancyLayer> layers_of(const std::vector<TensorView>& features,
                                        const std::vector<TensorView>& reconstructed,
                                        const std::vector<TensorView>& heads) {
  MEDAD_CHECK(!features.empty(), "features: at least one layer expected");
  MEDAD_CHECK(reconstructed.size() == features.size(),
              "reconstructed: as many layers as features expected");
  MEDAD_CHECK(heads.empty() || heads.size() == 4 * features.size(),
              "heads: w1, b1, w2, b2 of each layer expected");
  std::vector<DiscrepancyLayer> layers;
  for (size_t l = 0; l < features.size(); ++l) {
    const TensorView& map = features[l];
    MEDAD_CHECK(map.dims == 4, "features: 4 axes (B, C, H, W) expected");
    MEDAD_CHECK(is_floating(map.dtype) && map.dtype == features[0].dtype,
                "features: one floating type expected");
    MEDAD_CHECK(map.shape[0] == features[0].shape[0], "features: one batch size expected");
    MEDAD_CHECK(map.shape[2] > 0 && map.shape[3] > 0, "features: H and W of at least 1 expected");
    check_like(reconstructed[l], map, "reconstructed");
    DiscrepancyLayer layer{};
    layer.features = side_of(map);
    layer.reconstructed = side_of(reconstructed[l]);
    layer.channels = map.shape[1];
    layer.height = map.shape[2];
    layer.width = map.shape[3];
    if (!heads.empty()) layer.head = head_of(heads, l, map);
    layers.push_back(layer);
  }
  return layers;
}

DiscrepancyJob job_of(const std::vector<DiscrepancyLayer>& layers, DType dtype, int64_t batch,
                      int reduction, const TensorView& distances, const TensorView& map,
                      const Launch& launch) {
  MEDAD_CHECK(reduction >= 0 && reduction <= 2, "reduction: 0, 1 or 2 expected");
  DiscrepancyJob job{};
  job.layers = layers.data();
  job.layer_count = static_cast<int>(layers.size());
  job.dtype = dtype;
  job.separate = Reduction(reduction) == Reduction::kNone;
  job.scale = Reduction(reduction) == Reduction::kMean ? 1.0 / double(layers.size()) : 1.0;
  const int first = job.separate ? 1 : 0;
  MEDAD_CHECK(map.dims == 4 + first && map.is_contiguous(), "map: contiguous, 4 axes expected");
  MEDAD_CHECK(!job.separate || map.shape[0] == int64_t(layers.size()), "map: one a layer expected");
  MEDAD_CHECK(map.shape[first] == batch && map.shape[first + 1] == 1, "map: (B, 1, H, W) expected");
  MEDAD_CHECK(map.dtype == (dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
              "map: float32 expected, or float64 for float64 features");
  job.batch = batch;
  job.height = map.shape[first + 2];
  job.width = map.shape[first + 3];
  MEDAD_CHECK(job.height > 0 && job.width > 0, "map: H and W of at least 1 expected");
  job.map = map.data;
  if (!launch.on_cpu()) {
    int64_t positions = 0;
    for (const DiscrepancyLayer& layer : layers) positions += layer.height * layer.width;
    MEDAD_CHECK(distances.dtype == map.dtype && distances.is_contiguous() &&
                    distances.numel() == batch * positions,
                "distances: contiguous, one for each position of each image expected");
    job.scratch = distances.data;
  }
  job.threads = launch.threads > 1 ? launch.threads : 1;
  return job;
}

}  // namespace

void patch_discrepancy(const std::vector<TensorView>& features,
                       const std::vector<TensorView>& reconstructed,
                       const std::vector<TensorView>& heads, int reduction,
                       const TensorView& distances, const TensorView& out, const Launch& launch) {
  const std::vector<DiscrepancyLayer> layers = layers_of(features, reconstructed, heads);
  const DiscrepancyJob job =
      job_of(layers, features[0].dtype, features[0].shape[0], reduction, distances, out, launch);
  if (job.batch == 0) return;
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(patch_discrepancy_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  patch_discrepancy_cuda(job, launch);
#else
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

void patch_discrepancy_backward(const TensorView& grad, const std::vector<TensorView>& features,
                                const std::vector<TensorView>& reconstructed, int reduction,
                                const TensorView& distances,
                                const std::vector<TensorView>& grad_features,
                                const std::vector<TensorView>& grad_reconstructed,
                                const Launch& launch) {
  std::vector<DiscrepancyLayer> layers = layers_of(features, reconstructed, {});
  const auto attach = [&](const std::vector<TensorView>& grads, const char* name,
                          DiscrepancySide DiscrepancyLayer::* side) {
    MEDAD_CHECK(grads.empty() || grads.size() == layers.size(), name << ": one a layer expected");
    for (size_t l = 0; l < grads.size(); ++l) {
      check_like(grads[l], features[l], name);
      layers[l].*side = side_of(grads[l]);
    }
  };
  attach(grad_features, "grad_features", &DiscrepancyLayer::grad_features);
  attach(grad_reconstructed, "grad_reconstructed", &DiscrepancyLayer::grad_reconstructed);
  const DiscrepancyJob job =
      job_of(layers, features[0].dtype, features[0].shape[0], reduction, distances, grad, launch);
  if (job.batch == 0) return;
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(patch_discrepancy_backward_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  patch_discrepancy_backward_cuda(job, launch);
#else
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
