#include "core/check.h"
#include "core/cpu_level.h"
#include "core/dispatch.h"
#include "ops/ensemble_discrepancy/ensemble_discrepancy.h"

namespace medad {

MEDAD_DECLARE_CPU(ensemble_discrepancy_cpu, (const EnsembleJob& job))

namespace {

// `first` is the place of the axis of images: 1 where members come before it.
EnsembleSide side_of(const TensorView& view, int first, const TensorView& normal,
                     const char* name) {
  MEDAD_CHECK(view.dims == first + 4,
              name << ": " << first + 4 << " axes expected, got " << view.dims);
  MEDAD_CHECK(view.dtype == normal.dtype, name << ": the type of normal expected");
  for (int d = 0; d < 4; ++d) {
    MEDAD_CHECK(view.shape[first + d] == normal.shape[1 + d],
                name << ": (B, C, H, W) as of normal expected");
  }
  int64_t expected = 1;
  for (int d = first + 3; d > first; --d) {
    MEDAD_CHECK(view.shape[d] == 1 || view.strides[d] == expected || view.numel() == 0,
                name << ": contiguous images expected");
    expected *= view.shape[d];
  }
  return {view.data, first == 1 ? view.strides[0] : 0, view.strides[first]};
}

int members_of(const TensorView& view, const char* name) {
  MEDAD_CHECK(view.shape[0] > 0 && view.shape[0] < (int64_t(1) << 31),
              name << ": 1 to 2^31 - 1 members expected, got " << view.shape[0]);
  return static_cast<int>(view.shape[0]);
}

}  // namespace

void ensemble_discrepancy(const TensorView& unknown, const TensorView& normal,
                          const std::vector<TensorView>& image,
                          const std::vector<TensorView>& log_variance, const TensorView& out,
                          const Launch& launch) {
  MEDAD_CHECK(is_floating(normal.dtype), "normal: a floating type expected");
  MEDAD_CHECK(image.size() <= 1, "image: none or one expected");
  MEDAD_CHECK(log_variance.size() <= 1, "log_variance: none or one expected");
  EnsembleJob job{};
  job.normal = side_of(normal, 1, normal, "normal");
  job.normal_members = members_of(normal, "normal");
  job.unknown = side_of(unknown, 1, normal, "unknown");
  job.unknown_members = members_of(unknown, "unknown");
  if (!image.empty()) job.image = side_of(image[0], 0, normal, "image");
  if (!log_variance.empty()) {
    job.log_variance = side_of(log_variance[0], 1, normal, "log_variance");
    MEDAD_CHECK(log_variance[0].shape[0] == normal.shape[0],
                "log_variance: as many members as normal expected");
  }
  job.dtype = normal.dtype;
  job.images = normal.shape[1];
  job.pixels = normal.shape[2] * normal.shape[3] * normal.shape[4];
  MEDAD_CHECK(out.dims == 5 && out.is_contiguous(), "out: contiguous, 5 axes expected");
  MEDAD_CHECK(out.shape[0] == (image.empty() ? 2 : 3), "out: 2 maps expected, 3 with an image");
  MEDAD_CHECK(out.numel() == out.shape[0] * job.images * job.pixels,
              "out: maps of (B, C, H, W) expected");
  MEDAD_CHECK(out.dtype == (job.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
              "out: float32 expected, or float64 for float64 inputs");
  job.out = out.data;
  job.threads = launch.threads > 1 ? launch.threads : 1;
  if (job.images == 0 || job.pixels == 0) return;

  bool one_run = true;
  for (const EnsembleSide* side : {&job.unknown, &job.normal, &job.image, &job.log_variance}) {
    one_run = one_run && (side->data == nullptr || side->image_stride == job.pixels);
  }
  if (one_run || job.images == 1) {
    job.pixels *= job.images;
    job.images = 1;
  }
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(ensemble_discrepancy_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  ensemble_discrepancy_cuda(job, launch);
#else
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
