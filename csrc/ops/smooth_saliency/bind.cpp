#include "core/check.h"
#include "core/cpu_level.h"
#include "core/dispatch.h"
#include "ops/smooth_saliency/smooth_saliency.h"

namespace medad {

MEDAD_DECLARE_CPU(smooth_saliency_cpu, (const SaliencyJob& job))

namespace {

SaliencySide side_of(const TensorView& view, const char* name) {
  MEDAD_CHECK(view.dims == 4, name << ": 4 axes (B, C, H, W) expected, got " << view.dims);
  MEDAD_CHECK(view.shape[3] <= 1 || view.strides[3] == 1, name << ": contiguous rows expected");
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

}  // namespace

void smooth_saliency(const TensorView& gradient, const TensorView& image, const TensorView& out,
                     const Launch& launch) {
  MEDAD_CHECK(is_floating(gradient.dtype), "gradient: a floating type expected");
  MEDAD_CHECK(image.dtype == gradient.dtype, "image: the gradient's type expected");
  SaliencyJob job{};
  job.gradient = side_of(gradient, "gradient");
  job.image = side_of(image, "image");
  for (int d = 0; d < 4; ++d) {
    MEDAD_CHECK(image.shape[d] == gradient.shape[d], "image: the gradient's shape expected");
  }
  job.dtype = gradient.dtype;
  job.batch = gradient.shape[0];
  job.channels = gradient.shape[1];
  job.height = gradient.shape[2];
  job.width = gradient.shape[3];
  MEDAD_CHECK(job.channels > 0, "gradient: at least one channel expected");
  MEDAD_CHECK(out.dims == 4 && out.is_contiguous(), "out: contiguous, 4 axes expected");
  MEDAD_CHECK(out.shape[0] == job.batch && out.shape[1] == 1 && out.shape[2] == job.height &&
                  out.shape[3] == job.width,
              "out: (B, 1, H, W) expected");
  MEDAD_CHECK(out.dtype == (job.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
              "out: float32 expected, or float64 for float64 inputs");
  job.out = out.data;
  job.threads = launch.threads > 1 ? launch.threads : 1;
  if (out.numel() == 0) return;
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(smooth_saliency_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  smooth_saliency_cuda(job, launch);
#else
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
