#include "core/check.h"
#include "core/cpu_level.h"
#include "ops/lung_mask/layout.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad {

MEDAD_DECLARE_CPU(lung_mask_cpu, (const LungJob& job))

int64_t lung_mask_scratch_bytes(int64_t batch, int64_t height, int64_t width) {
  return batch * lung_layout(height, width).bytes;
}

void lung_mask(const TensorView& images, int mode, const TensorView& scratch, const TensorView& out,
               const Launch& launch) {
  MEDAD_CHECK(mode == 0 || mode == 1, "mode: 0 or 1 expected, got " << mode);
  MEDAD_CHECK(images.dims == 3 && images.dtype == DType::kUInt8 && images.is_contiguous(),
              "images: contiguous uint8 of 3 axes (B, H, W) expected");
  MEDAD_CHECK(out.dims == 3 && out.dtype == DType::kBool && out.is_contiguous(),
              "out: contiguous bool of 3 axes (B, H, W) expected");
  for (int d = 0; d < 3; ++d) {
    MEDAD_CHECK(out.shape[d] == images.shape[d], "out: the shape of images expected");
  }
  LungJob job{};
  job.images = images.ptr<const uint8_t>();
  job.out = out.ptr<uint8_t>();
  job.batch = images.shape[0];
  job.height = images.shape[1];
  job.width = images.shape[2];
  MEDAD_CHECK(job.height > 0 && job.width > 0, "images: H and W of at least 1 expected");
  MEDAD_CHECK(job.height <= INT32_MAX / job.width, "images: fewer than 2**31 pixels expected");
  job.mode = LungMode(mode);
  job.threads = launch.threads > 1 ? launch.threads : 1;
  if (job.batch == 0) return;
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(lung_mask_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  job.scratch = scratch.data;
  job.scratch_bytes = lung_mask_scratch_bytes(job.batch, job.height, job.width);
  MEDAD_CHECK(scratch.dtype == DType::kUInt8 && scratch.is_contiguous() &&
                  scratch.numel() >= job.scratch_bytes,
              "scratch: " << job.scratch_bytes << " bytes expected");
  lung_mask_cuda(job, launch);
#else
  (void)scratch;
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
