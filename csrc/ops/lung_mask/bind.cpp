#include "core/bind.h"

#include "ops/lung_mask/lung_mask.h"

namespace medad {

// Bytes of scratch that the GPU needs for a batch.
int64_t lung_mask_scratch_bytes(int64_t batch, int64_t height, int64_t width) {
  return batch * lung_layout(height, width).bytes;
}

// mode: 0 "reference", 1 "clean". `scratch`: uint8, lung_mask_scratch_bytes() of it, for the GPU.
void lung_mask(const TensorView& images, int64_t mode, const TensorView& scratch,
               const TensorView& out, const Launch& launch) {
  MEDAD_CHECK(mode == 0 || mode == 1, "mode: 0 or 1 expected, got " << mode);
  LungJob job{};
  job.images = images.ptr<const uint8_t>();
  job.out = out.ptr<uint8_t>();
  job.batch = images.shape[0];
  job.height = images.shape[1];
  job.width = images.shape[2];
  check_tensor(images, "images", DType::kUInt8, {job.batch, job.height, job.width});
  check_tensor(out, "out", DType::kBool, {job.batch, job.height, job.width});
  MEDAD_CHECK(job.height > 0 && job.width > 0, "images: H and W of at least 1 expected");
  MEDAD_CHECK(job.height <= INT32_MAX / job.width, "images: fewer than 2**31 pixels expected");
  job.mode = LungMode(mode);
  job.threads = launch.threads;
  if (job.batch == 0) return;
  if (!launch.on_cpu()) {
    job.scratch = scratch.data;
    job.scratch_bytes = lung_mask_scratch_bytes(job.batch, job.height, job.width);
    check_tensor(scratch, "scratch", DType::kUInt8, {job.scratch_bytes});
  }
  MEDAD_RUN(lung_mask, job, launch);
}

MEDAD_BIND(lung_mask_scratch_bytes);
MEDAD_BIND(lung_mask);

}  // namespace medad
