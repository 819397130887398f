#include "core/bind.h"

#include "ops/smooth_saliency/smooth_saliency.h"

namespace medad {
namespace {

SaliencySide side_of(const TensorView& view, const char* name, const TensorView& gradient) {
  check_like(view, name, gradient);
  MEDAD_CHECK(view.shape[3] <= 1 || view.strides[3] == 1, name << ": contiguous rows expected");
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

}  // namespace

void smooth_saliency(const TensorView& gradient, const TensorView& image, const TensorView& out,
                     const Launch& launch) {
  MEDAD_CHECK(is_floating(gradient.dtype), "gradient: a floating type expected");
  MEDAD_CHECK(gradient.dims == 4, "gradient: (B, C, H, W) expected");
  SaliencyJob job{};
  job.gradient = side_of(gradient, "gradient", gradient);
  job.image = side_of(image, "image", gradient);
  job.dtype = gradient.dtype;
  job.batch = gradient.shape[0];
  job.channels = gradient.shape[1];
  job.height = gradient.shape[2];
  job.width = gradient.shape[3];
  MEDAD_CHECK(job.channels > 0, "gradient: at least one channel expected");
  check_tensor(out, "out", compute_dtype(job.dtype), {job.batch, 1, job.height, job.width});
  job.out = out.data;
  job.threads = launch.threads;
  if (out.numel() > 0) MEDAD_RUN(smooth_saliency, job, launch);
}

MEDAD_BIND(smooth_saliency);

}  // namespace medad
