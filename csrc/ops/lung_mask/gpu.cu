// Lung masks on the GPU: one block an image, one launch, whatever the mode.
//
// Bound by latency: an image is 64 KiB in and out, and some fifty short steps that each need the
// one before. So an image stays on one multiprocessor: its mask as bits, the counts of runs and the
// union-find forest lie in shared memory (92 KiB at 256 x 256, which any GPU since 8.0 has; else
// they lie in global memory), steps are divided by barriers of the block, and nothing ever waits
// for another block or the host. Images run side by side; a single large one does not fill the
// device.
//
// Pixels become bits at once, 32 a word. Union-find works on runs of pixels (components.cuh) with
// atomic minima on integers: the roots, and with them the masks, do not depend on the order. Levels
// and component sizes, which are touched once or twice, lie in global memory.

#include "core/gpu.cuh"
#include "ops/lung_mask/block.cuh"
#include "ops/lung_mask/components.cuh"
#include "ops/lung_mask/lung_mask.h"
#include "ops/lung_mask/threshold.cuh"

namespace medad {
namespace {

__device__ __forceinline__ Frame frame_of(const Job& job, Span<uint32_t> shared,
                                          Span<int> reductions) {
  const int64_t pixels = job.height * job.width, place = int64_t(blockIdx.x);
  const LungLayout& at = job.layout;
  const Span<uint8_t> own = part_of<uint8_t>(job.scratch, place * at.bytes, at.bytes);
  const Span<uint8_t> on_chip = span_cast<uint8_t>(shared);
  const Span<uint8_t> hot = job.in_shared ? on_chip : own;
  Frame frame{};
  frame.image = part_of<const uint8_t>(job.images, place * pixels, pixels);
  frame.out = part_of<uint8_t>(job.out, place * pixels, pixels);
  frame.height = job.height;
  frame.width = job.width;
  frame.shape = bit_shape<uint32_t>(job.height, job.width);
  frame.aligned = job.aligned;
  const int64_t words = frame.shape.height * frame.shape.words;
  const int64_t runs = most_runs(job.height, job.width);
  frame.bits = part_of<uint32_t>(hot, at.bits, words);
  frame.other = part_of<uint32_t>(hot, at.other, words);
  frame.base = part_of<int>(hot, at.base, words);
  frame.parent = part_of<int>(hot, at.parent, runs);
  frame.area = part_of<int>(own, at.area, runs);
  frame.at_border = part_of<int>(own, at.at_border, runs);
  frame.top = part_of<int>(own, at.top, runs);
  frame.bottom = part_of<int>(own, at.bottom, runs);
  frame.left = part_of<int>(own, at.left, runs);
  frame.right = part_of<int>(own, at.right, runs);
  frame.large = part_of<int>(own, at.large, most_large(job.height, job.width));
  frame.equalised = part_of<uint16_t>(own, at.equalised, pixels);
  frame.levels =
      part_of<uint16_t>(own, at.levels, int64_t(job.grid.rows) * job.grid.columns * kBins);
  frame.histograms = part_of<int>(on_chip, 0, kWarps * kBins);
  frame.shared = reductions;
  return frame;
}

template <bool kReference>
__global__ void __launch_bounds__(kThreads, 1) lung_mask_kernel(const __grid_constant__ Job job) {
  MEDAD_DYNAMIC_SHARED(uint32_t, shared);
  MEDAD_SHARED(int, reductions, kLanes);
  Frame frame = frame_of(job, shared, reductions);
  pick_dark_levels(frame, job.grid);
  erode(frame);
  dilate(frame);
  int runs = label<true>(frame);
  find_border(frame, runs);
  draw(frame, [&](int root) { return frame.at_border[root] == 0; });
  if (kReference) {
    dilate(frame);
    runs = label<true>(frame);
    erase_small_boxes(frame, runs);
  } else {
    const int64_t reach = closing_reach(frame.height, frame.width);
    for (int64_t i = 0; i < reach; ++i) dilate(frame);
    for (int64_t i = 0; i < reach; ++i) erode(frame);
    runs = label<true>(frame);
    keep_two_largest(frame, runs);
    complement(frame);
    runs = label<false>(frame);
    find_border(frame, runs);
    draw(frame, [&](int root) { return frame.at_border[root] != 0; });
    complement(frame);
  }
  write_out(frame);
}

}  // namespace

void lung_mask_cuda(const LungJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const int64_t pixels = job.height * job.width;
  Job device{};
  device.layout = lung_layout(job.height, job.width);
  device.images = span_of_extent<const uint8_t>(job.images, job.batch * pixels);
  device.out = span_of_extent<uint8_t>(job.out, job.batch * pixels);
  device.scratch = span_of_extent<uint8_t>(job.scratch, job.batch * device.layout.bytes);
  device.height = job.height;
  device.width = job.width;
  device.grid = clahe_grid(job.height, job.width);
  const uintptr_t places = reinterpret_cast<uintptr_t>(job.images) |
                           reinterpret_cast<uintptr_t>(job.out) | uintptr_t(job.width);
  device.aligned = places % kSixteen == 0;

  device.in_shared = device.layout.hot_bytes + kStaticBytes <= shared_limit(launch.device);
  const bool more = device.in_shared && device.layout.hot_bytes > kHistogramBytes;
  const int64_t shared_bytes = more ? device.layout.hot_bytes : kHistogramBytes;
  const auto lung_kernel =
      job.mode == LungMode::kReference ? lung_mask_kernel<true> : lung_mask_kernel<false>;
  allow_shared(lung_kernel, shared_bytes);
  MEDAD_LAUNCH(lung_kernel, grid_of(job.batch, "images"), dim3(kThreads), size_t(shared_bytes),
               launch.stream, device);
}

}  // namespace medad
