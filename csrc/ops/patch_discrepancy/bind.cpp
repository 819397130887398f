#include "core/bind.h"

#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad {
namespace {

DiscrepancySide side_of(const TensorView& view) {
  return {view.data, view.strides[0], view.strides[1], view.strides[2], view.strides[3]};
}

// `head`: w1 (D1, C), b1 (D1), w2 (D2, D1), b2 (D2).
DiscrepancyHead head_of(const TensorView* head, const TensorView& map) {
  const int64_t hidden = head[0].shape[0], projected = head[2].shape[0];
  check_tensor(head[0], "heads: w1", map.dtype, {hidden, map.shape[1]});
  check_tensor(head[1], "heads: b1", map.dtype, {hidden});
  check_tensor(head[2], "heads: w2", map.dtype, {projected, hidden});
  check_tensor(head[3], "heads: b2", map.dtype, {projected});
  return {head[0].data, head[1].data, head[2].data, head[3].data, hidden, projected};
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
    check_like(reconstructed[l], "reconstructed", map);
    DiscrepancyLayer layer{};
    layer.features = side_of(map);
    layer.reconstructed = side_of(reconstructed[l]);
    layer.channels = map.shape[1];
    layer.height = map.shape[2];
    layer.width = map.shape[3];
    if (!heads.empty()) layer.head = head_of(&heads[4 * l], map);
    layers.push_back(layer);
  }
  return layers;
}

DiscrepancyJob job_of(const std::vector<DiscrepancyLayer>& layers, const TensorView& features,
                      int64_t reduction, const TensorView& distances, const TensorView& map,
                      const Launch& launch) {
  MEDAD_CHECK(reduction >= 0 && reduction <= 2, "reduction: 0, 1 or 2 expected");
  const int64_t count = int64_t(layers.size());
  DiscrepancyJob job{};
  job.layers = layers.data();
  job.layer_count = static_cast<int>(count);
  job.dtype = features.dtype;
  job.separate = Reduction(reduction) == Reduction::kNone;
  job.scale = Reduction(reduction) == Reduction::kMean ? 1.0 / double(count) : 1.0;
  job.batch = features.shape[0];
  job.height = map.dims >= 2 ? map.shape[map.dims - 2] : 0;
  job.width = map.dims >= 2 ? map.shape[map.dims - 1] : 0;
  const DType dtype = compute_dtype(job.dtype);
  if (job.separate) {
    check_tensor(map, "map", dtype, {count, job.batch, 1, job.height, job.width});
  } else {
    check_tensor(map, "map", dtype, {job.batch, 1, job.height, job.width});
  }
  MEDAD_CHECK(job.height > 0 && job.width > 0, "map: H and W of at least 1 expected");
  job.map = map.data;
  if (!launch.on_cpu()) {
    int64_t positions = 0;
    for (const DiscrepancyLayer& layer : layers) positions += layer.height * layer.width;
    check_tensor(distances, "distances", dtype, {job.batch * positions});
    job.scratch = distances.data;
  }
  job.threads = launch.threads;
  return job;
}

}  // namespace

// features, reconstructed: one view a layer; heads: none, or w1, b1, w2, b2 of each layer in turn;
// reduction: as the enumeration has it. `distances` is scratch for the layers' own maps, one after
// another, for the GPU: B x positions of all layers, in out's type.
void patch_discrepancy(const std::vector<TensorView>& features,
                       const std::vector<TensorView>& reconstructed,
                       const std::vector<TensorView>& heads, int64_t reduction,
                       const TensorView& distances, const TensorView& out, const Launch& launch) {
  const std::vector<DiscrepancyLayer> layers = layers_of(features, reconstructed, heads);
  const DiscrepancyJob job = job_of(layers, features[0], reduction, distances, out, launch);
  if (job.batch > 0) MEDAD_RUN(patch_discrepancy, job, launch);
}

// grad_features, grad_reconstructed: empty where not wanted.
void patch_discrepancy_backward(const TensorView& grad, const std::vector<TensorView>& features,
                                const std::vector<TensorView>& reconstructed, int64_t reduction,
                                const TensorView& distances,
                                const std::vector<TensorView>& grad_features,
                                const std::vector<TensorView>& grad_reconstructed,
                                const Launch& launch) {
  std::vector<DiscrepancyLayer> layers = layers_of(features, reconstructed, {});
  const auto attach = [&](const std::vector<TensorView>& grads, const char* name,
                          DiscrepancySide DiscrepancyLayer::* side) {
    MEDAD_CHECK(grads.empty() || grads.size() == layers.size(), name << ": one a layer expected");
    for (size_t l = 0; l < grads.size(); ++l) {
      check_like(grads[l], name, features[l]);
      layers[l].*side = side_of(grads[l]);
    }
  };
  attach(grad_features, "grad_features", &DiscrepancyLayer::grad_features);
  attach(grad_reconstructed, "grad_reconstructed", &DiscrepancyLayer::grad_reconstructed);
  const DiscrepancyJob job = job_of(layers, features[0], reduction, distances, grad, launch);
  if (job.batch > 0) MEDAD_RUN(patch_discrepancy_backward, job, launch);
}

MEDAD_BIND(patch_discrepancy);
MEDAD_BIND(patch_discrepancy_backward);

}  // namespace medad
