// Anatomy paste on the GPU, in two launches: what each image needs (prepare.cuh), then the blur
// down the columns and the composite (composite.cuh).
//
// Bound by memory: image, mask, result and gate pass once, 27 MB for 32 float images of 256 x 256,
// beside which the blurred rows (8 MB, in L2) come and go. The first kernel has little to read and
// is bound by latency, so several blocks share an image. Values of the blur are integers: sums
// slide without drift, the order of threads cannot matter, and the gate has the CPU's bits.

#include <type_traits>

#include "ops/anatomy_paste/anatomy_paste.h"
#include "ops/anatomy_paste/composite.cuh"
#include "ops/anatomy_paste/device.cuh"
#include "ops/anatomy_paste/prepare.cuh"

namespace medad {
namespace {

template <class T, class G, class V, class R>
void launch_paste(const PasteJob& job, const Launch& launch) {
  using Paste = DevicePaste<T, G, V, R>;
  const PasteScratch scratch =
      paste_scratch(job.batch, job.height, job.width, job.dtype == DType::kFloat64);
  const Paste paste = device_paste<T, G, V, R>(job, scratch);
  const int64_t value = sizeof(V);
  const size_t line_bytes =
      scratch.rows_in_shared ? size_t(scratch.warps * 2 * job.width * value) : 0;
  MEDAD_LAUNCH(prepare_kernel<Paste>, grid_of(job.batch * PasteScratch::kParts, "images"),
               dim3(unsigned(scratch.warps * 32)), line_bytes, launch.stream, paste);
  const size_t strip_bytes =
      scratch.columns_in_shared ? size_t(2 * job.height * scratch.strip * value) : 0;
  if (strip_bytes > (48 << 10)) allow_shared(paste_kernel<Paste>, int64_t(strip_bytes));
  const int64_t strips = (job.width + scratch.strip - 1) / scratch.strip;
  MEDAD_LAUNCH(paste_kernel<Paste>, grid_of(job.batch * strips, "images"), dim3(kPasteThreads),
               strip_bytes, launch.stream, paste);
}

}  // namespace

void anatomy_paste_cuda(const PasteJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  if (job.exact) {
    launch_paste<uint8_t, uint8_t, int32_t, float>(job, launch);
  } else if (job.dtype == DType::kUInt8) {
    launch_paste<uint8_t, float, int32_t, float>(job, launch);
  } else {
    with_floating_type(job.dtype, [&](auto zero) {
      using T = decltype(zero);
      using R = typename Compute<T>::type;
      launch_paste<T, R, std::conditional_t<sizeof(R) == 8, int64_t, int32_t>, R>(job, launch);
    });
  }
}

}  // namespace medad
