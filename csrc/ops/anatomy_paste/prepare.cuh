// What is known of an image before it is pasted: its centre, the sums behind its patch's mean, and
// the rows of its shape, blurred along the rows. Included by gpu.cu only.
//
// kParts blocks an image, so that a batch of 32 fills a Hopper: each finds the centre for itself
// (the mask is read from L2) and takes its share of the crop's rows and of the shape's. Bound by
// latency: one count over the mask, then a few rows a warp, three prefix sums each.
#pragma once

#include "ops/anatomy_paste/device.cuh"

namespace medad {
namespace {

// The inclusive sum of the lanes up to this one.
template <class U>
__device__ __forceinline__ U warp_prefix(U value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const U other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Pixels of the mask among `count` bytes from `at`.
__device__ __forceinline__ int64_t mask_count(const Span<const uint8_t>& mask, int64_t at,
                                              int64_t count, bool aligned) {
  int64_t found = 0, i = 0;
  if (aligned) {
    for (; i + 16 <= count; i += 16) {
      const uint4 four = load_vector<uint4>(mask, at + i);
      const unsigned words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        // The top bit of each byte that is not 0.
        const unsigned some = ((words[w] & 0x7f7f7f7fu) + 0x7f7f7f7fu) | words[w];
        found += __popc(some & 0x80808080u);
      }
    }
  }
  for (; i < count; ++i) found += mask[at + i] != 0;
  return found;
}

// The row and column of the centre, in centre[0] and [1], by the whole block.
template <class Paste>
__device__ __forceinline__ void find_centre(const Paste& paste, int64_t image,
                                            const Span<int64_t>& centre,
                                            const Span<int64_t>& totals) {
  const int64_t own = image * kPasteIntegers;
  const double rank = paste.reals[image * kPasteReals + kPasteCentreRank];
  const bool given = paste.integers[own + kPasteHasCentre] != 0;
  const int64_t plane = paste.height * paste.width;
  if (threadIdx.x == 0) {
    // A place in the whole image, or what an empty mask falls back to, until the mask says better.
    const int64_t place = paste_place(rank, plane);
    const int at = given ? kPasteCentreRow : kPasteFallbackRow;
    centre[0] = paste.gated || given ? paste.integers[own + at] : place / paste.width;
    centre[1] = paste.gated || given ? paste.integers[own + at + 1] : place % paste.width;
    centre[2] = 0;
  }
  if (!paste.gated) {
    __syncthreads();
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t threads = blockDim.x;
  const int64_t share = ((plane + threads - 1) / threads + 15) / 16 * 16;
  const int64_t first = image * plane;
  const int64_t begin = int64_t(threadIdx.x) * share < plane ? int64_t(threadIdx.x) * share : plane;
  const int64_t end = begin + share < plane ? begin + share : plane;
  const bool aligned = plane % 16 == 0 && paste.aligned;
  const int64_t mine = mask_count(paste.masks, first + begin, end - begin, aligned);
  int64_t before = warp_prefix(mine);
  if (lane == 31) totals[warp] = before;
  __syncthreads();
  int64_t count = 0;
  before -= mine;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += totals[w];
    count += totals[w];
  }
  if (threadIdx.x == 0) centre[2] = count;
  const int64_t place = count > 0 ? paste_place(rank, count) : -1;
  if (!given && before <= place && place < before + mine) {
    int64_t left = place - before, at = begin;
    while (left > 0 || paste.masks[first + at] == 0) {
      left -= paste.masks[first + at] != 0;
      ++at;
    }
    centre[0] = at / paste.width;
    centre[1] = at % paste.width;
  }
  __syncthreads();
}

// Three passes along a row of `count` values by one warp; `sums` is as long.
template <class Paste>
__device__ __forceinline__ void blur_row(const DeviceBox<Paste>& box, int64_t whole,
                                         const Span<typename Paste::Value>& line,
                                         const Span<typename Paste::Value>& sums, int64_t count) {
  using V = typename Paste::Value;
  using U = std::make_unsigned_t<V>;  // sums may pass the end of the type and come back
  const int lane = threadIdx.x % 32;
  const int64_t last = count - 1;
  for (int pass = 0; pass < 3; ++pass) {
    U carry = 0;
    for (int64_t base = 0; base < count; base += 32) {
      const int64_t i = base + lane;
      const U sum = warp_prefix(i < count ? U(line[i]) : U(0)) + carry;
      if (i < count) sums[i] = V(sum);
      carry = __shfl_sync(kAllLanes, sum, 31);
    }
    __syncwarp();
    const U first_value = U(sums[0]);
    const U last_value = U(sums[last]) - (last > 0 ? U(sums[last - 1]) : U(0));
    const auto up_to = [&](int64_t i) { return i < 0 ? U(0) : U(sums[i < last ? i : last]); };
    const auto value = [&](int64_t i) {
      return i <= 0 ? first_value : i >= last ? last_value : up_to(i) - up_to(i - 1);
    };
    for (int64_t i = lane; i < count; i += 32) {
      U sum = up_to(i + whole) - up_to(i - whole - 1);
      if (i < whole) sum += first_value * U(whole - i);
      if (i + whole > last) sum += last_value * U(i + whole - last);
      line[i] = box.box(V(sum), V(value(i - whole - 1) + value(i + whole + 1)));
    }
    __syncwarp();
  }
}

template <class Paste>
__global__ void __launch_bounds__(512, 1) prepare_kernel(const __grid_constant__ Paste paste) {
  using V = typename Paste::Value;
  constexpr int kParts = PasteScratch::kParts;
  MEDAD_SHARED(int64_t, centre, 3);
  MEDAD_SHARED(int64_t, totals, 32);
  MEDAD_SHARED(double, partial, 32);
  MEDAD_SHARED(PastePlan, planned, 1);
  MEDAD_DYNAMIC_SHARED(V, shared_lines);
  const int64_t image = int64_t(blockIdx.x) / kParts, part = int64_t(blockIdx.x) % kParts;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  find_centre(paste, image, centre, totals);

  const int64_t own = image * kPasteReals;
  if (threadIdx.x == 0) {
    int64_t integers[kPasteIntegers];
    double reals[kPasteReals];
    for (int i = 0; i < kPasteIntegers; ++i)
      integers[i] = paste.integers[image * kPasteIntegers + i];
    for (int i = 0; i < kPasteReals; ++i) reals[i] = paste.reals[own + i];
    PastePlan plan =
        paste_plan(integers, reals, paste.height, paste.width, paste.source_height,
                   paste.source_width, paste.source_count, centre[0], centre[1], Paste::kExact);
    plan.gated = centre[2] > 0;
    planned[0] = plan;
    if (part == 0) paste.plans[image] = plan;
  }
  __syncthreads();
  const PastePlan& plan = planned[0];
  if (plan.top == plan.bottom) return;

  if (paste.reals[own + kPasteContrast] != 1) {
    const bool from_own = plan.source < 0;
    const int64_t rows = from_own ? paste.height : paste.source_height;
    const int64_t columns = from_own ? paste.width : paste.source_width;
    const PasteCrop crop = paste_crop(plan, rows, columns);
    const bool brightened = paste.integers[image * kPasteIntegers + kPasteJitterOrder] == 0;
    const double brightness = paste.reals[own + kPasteBrightness];
    const int64_t from = (from_own ? image : plan.source) * paste.channels * rows * columns;
    double sum = 0;
    for (int64_t row = crop.first + part * warps + warp; row < crop.last; row += kParts * warps) {
      for (int64_t column = crop.begin + lane; column < crop.end; column += 32) {
        sum += crop_level(paste, from_own, from + row * columns + column, rows * columns,
                          brightened, brightness);
      }
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      double total = 0;
      for (int w = 0; w < warps; ++w) total += partial[w];
      paste.sums[image * kParts + part] = total;
    }
  }

  const DeviceBox<Paste> box(plan);
  const PasteRows shape = paste_rows(plan);
  const int64_t count = plan.right - plan.left;
  const Span<V> lines = paste.rows_in_shared
                            ? shared_lines
                            : paste.row_lines + int64_t(blockIdx.x) * warps * 2 * paste.width;
  const Span<V> line = lines + warp * 2 * paste.width, sums = line + paste.width;
  for (int64_t row = part * warps + warp; row < shape.distances; row += kParts * warps) {
    const PasteSpan span = paste_span(plan, shape.nearest + row);
    for (int64_t i = lane; i < count; i += 32) {
      const int64_t column = plan.left + i;
      line[i] = span.first <= column && column < span.end ? box.full : V(0);
    }
    __syncwarp();
    if (!is_sharp(plan)) blur_row<Paste>(box, plan.whole, line, sums, count);
    const int64_t to = (image * paste.height + row) * paste.width;
    for (int64_t i = lane; i < count; i += 32) paste.rows[to + i] = line[i];
    __syncwarp();
  }
}

}  // namespace
}  // namespace medad
