// The blur down the columns, the mask, and the composite. Included by gpu.cu only.
//
// A block takes a strip of columns of one image, its fixed-point values in shared memory (64 KB for
// 32 columns of 256 rows): a thread takes a stretch of one column, sums its first window and
// slides. Bound by memory: image, mask, gate and result pass once, four pixels at a time, beside 3
// x 12 instructions a pixel for the blur; strips that the gate does not reach are copied.
#pragma once

#include "ops/anatomy_paste/device.cuh"

namespace medad {
namespace {

constexpr int kPasteThreads = 512;

// One pass down `rows` values of `strip` columns, their ends repeated beyond them.
template <class Paste>
__device__ __forceinline__ void blur_columns(const DeviceBox<Paste>& box, int64_t whole,
                                             const Span<typename Paste::Value>& from,
                                             const Span<typename Paste::Value>& to, int64_t rows,
                                             int strip) {
  using V = typename Paste::Value;
  const int column = threadIdx.x % strip, stretches = kPasteThreads / strip;
  const int64_t stretch = (rows + stretches - 1) / stretches, last = rows - 1;
  const int64_t begin = int64_t(threadIdx.x) / strip * stretch;
  const int64_t end = begin + stretch < rows ? begin + stretch : rows;
  if (begin >= end) return;
  const auto at = [&](int64_t row) {
    return from[(row < 0 ? 0 : row > last ? last : row) * strip + column];
  };
  V sum = 0;
  const int64_t low = begin - whole, high = begin + whole;
  if (low < 0) sum += from[column] * V(-low);
  if (high > last) sum += from[last * strip + column] * V(high - last);
  for (int64_t row = low < 0 ? 0 : low; row <= (high < last ? high : last); ++row) {
    sum += from[row * strip + column];
  }
  V before = at(begin - whole - 1);
  for (int64_t row = begin; row < end; ++row) {
    const V next = at(row + whole + 1), leave = at(row - whole);
    to[row * strip + column] = box.box(sum, next + before);
    sum += next - leave;
    before = leave;
  }
}

// The patch's jitter, from the sums of its crop.
template <class Paste>
struct DeviceJitter {
  using R = typename Paste::Real;
  PasteJitter<R> smooth;
  float brightness, contrast;
  int mean;
  bool contrast_first;

  __device__ DeviceJitter(const Paste& paste, const PastePlan& plan, int64_t image) {
    const int64_t own = image * kPasteReals;
    double mean_level = 0;
    if (paste.reals[own + kPasteContrast] != 1) {
      for (int part = 0; part < PasteScratch::kParts; ++part) {
        mean_level += paste.sums[image * PasteScratch::kParts + part];
      }
      const bool from_own = plan.source < 0;
      mean_level /= paste_crop(plan, from_own ? paste.height : paste.source_height,
                               from_own ? paste.width : paste.source_width)
                        .count();
    }
    if constexpr (Paste::kExact) {
      brightness = float(paste.reals[own + kPasteBrightness]);
      contrast = float(paste.reals[own + kPasteContrast]);
      mean = int(mean_level + 0.5);
      contrast_first = paste.integers[image * kPasteIntegers + kPasteJitterOrder] != 0;
    } else {
      double reals[kPasteReals];
      for (int i = 0; i < kPasteReals; ++i) reals[i] = paste.reals[own + i];
      smooth = paste_jitter<R>(reals, mean_level);
    }
  }

  __device__ __forceinline__ unsigned pillow(int level) const {
    if (contrast_first)
      return unsigned(pillow_blend(0, pillow_blend(mean, level, contrast), brightness));
    return unsigned(pillow_blend(mean, pillow_blend(0, level, brightness), contrast));
  }
};

// One pixel of one channel.
template <class Paste, class T, class G>
__device__ __forceinline__ T pasted(const Paste& paste, const PastePlan& plan,
                                    const DeviceJitter<Paste>& jitter, int64_t image, int64_t c,
                                    int64_t row, int64_t column, T below, G gate) {
  if (gate == G(0)) return below;
  const bool inside = row >= plan.from_row && row < plan.to_row && column >= plan.from_column &&
                      column < plan.to_column;
  T level{};
  if (inside) {
    const int64_t y = row - plan.patch_row + plan.source_row;
    const int64_t x = column - plan.patch_column + plan.source_column;
    level = plan.source < 0
                ? paste.images[((image * paste.channels + c) * paste.height + y) * paste.width + x]
                : paste.sources[((plan.source * paste.channels + c) * paste.source_height + y) *
                                    paste.source_width +
                                x];
  }
  if constexpr (Paste::kExact) {
    return T(pillow_composite(below, inside ? jitter.pillow(level) : 0u, gate));
  } else {
    using R = typename Paste::Real;
    const R p = inside ? patch_level(level, jitter.smooth) : jitter.smooth.black;
    return paste_mix(below, p, R(gate));
  }
}

// kPixels neighbours at a time, over the strip's columns and all rows.
template <int kPixels, class Paste, class T, class G>
__device__ __forceinline__ void paste_strip(const Paste& paste, const PastePlan& plan,
                                            const Span<T>& out, const Span<G>& gate,
                                            const Span<typename Paste::Value>& values,
                                            int64_t image, int64_t strip_begin) {
  using V = typename Paste::Value;
  const int strip = paste.strip, across = strip / kPixels;
  const DeviceBox<Paste> box(plan);
  const DeviceJitter<Paste> jitter(paste, plan, image);
  const int64_t first = int64_t(threadIdx.x) % across * kPixels, column = strip_begin + first;
  if (column >= paste.width) return;
  for (int64_t row = threadIdx.x / across; row < paste.height; row += kPasteThreads / across) {
    const int64_t place = (image * paste.height + row) * paste.width + column;
    const bool reached = row >= plan.top && row < plan.bottom;
    G own[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      own[i] = G(0);
      if (!reached || column + i < plan.left || column + i >= plan.right) continue;
      const V value = values[(row - plan.top) * strip + first + i];
      if constexpr (Paste::kExact) {
        own[i] = G(value);
      } else {
        own[i] = G(typename Paste::Real(value) * box.unit);
      }
    }
    if (plan.gated && reached) {
      if constexpr (kPixels == 4) {
        const auto mask = load_vector<Four<uint8_t>>(paste.masks, place);
#pragma unroll
        for (int i = 0; i < 4; ++i) own[i] = mask.value[i] != 0 ? own[i] : G(0);
      } else {
        own[0] = paste.masks[place] != 0 ? own[0] : G(0);
      }
    }
    if constexpr (kPixels == 4) {
      Four<G> four;
#pragma unroll
      for (int i = 0; i < 4; ++i) four.value[i] = own[i];
      store_vector(gate, place, four);
    } else {
      gate[place] = own[0];
    }
    for (int64_t c = 0; c < paste.channels; ++c) {
      const int64_t at = ((image * paste.channels + c) * paste.height + row) * paste.width + column;
      if constexpr (kPixels == 4) {
        auto four = load_vector<Four<T>>(paste.images, at);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          four.value[i] =
              pasted(paste, plan, jitter, image, c, row, column + i, four.value[i], own[i]);
        }
        store_vector(out, at, four);
      } else {
        const T below = paste.images[at];
        out[at] = pasted(paste, plan, jitter, image, c, row, column, below, own[0]);
      }
    }
  }
}

template <class Paste>
__global__ void __launch_bounds__(kPasteThreads, Paste::kBlocks)
    paste_kernel(const __grid_constant__ Paste paste) {
  using V = typename Paste::Value;
  MEDAD_SHARED(PastePlan, planned, 1);
  MEDAD_DYNAMIC_SHARED(V, shared_values);
  const int strip = paste.strip;
  const int64_t strips = (paste.width + strip - 1) / strip;
  const int64_t image = int64_t(blockIdx.x) / strips, begin = int64_t(blockIdx.x) % strips * strip;
  const auto words = span_cast<const uint32_t>(Span<const PastePlan>(paste.plans));
  const auto copy = span_cast<uint32_t>(Span<PastePlan>(planned));
  constexpr int kWords = sizeof(PastePlan) / 4;
  for (int i = threadIdx.x; i < kWords; i += kPasteThreads) copy[i] = words[image * kWords + i];
  __syncthreads();
  const PastePlan& plan = planned[0];

  Span<V> values = paste.columns_in_shared
                       ? shared_values
                       : paste.column_lines + int64_t(blockIdx.x) * 2 * paste.height * strip;
  if (plan.top < plan.bottom && begin < plan.right && begin + strip > plan.left) {
    const int64_t rows = plan.bottom - plan.top;
    Span<V> other = values + rows * strip;
    const PasteRows shape = paste_rows(plan);
    const int64_t column = begin + threadIdx.x % strip;
    for (int64_t row = threadIdx.x / strip; row < rows; row += kPasteThreads / strip) {
      const int64_t y = plan.top + row;
      V value = 0;
      if (shape.first <= y && y < shape.end && column >= plan.left && column < plan.right) {
        const int64_t line = paste_distance(plan, y) - shape.nearest;
        value = paste.rows[(image * paste.height + line) * paste.width + column - plan.left];
      }
      values[row * strip + threadIdx.x % strip] = value;
    }
    if (!is_sharp(plan)) {
      const DeviceBox<Paste> box(plan);
      for (int pass = 0; pass < 3; ++pass) {
        __syncthreads();
        blur_columns<Paste>(box, plan.whole, values, other, rows, strip);
        const Span<V> blurred = other;
        other = values;
        values = blurred;
      }
    }
    __syncthreads();
  }
  if (paste.aligned) {
    paste_strip<4>(paste, plan, paste.out, paste.gate, values, image, begin);
  } else {
    paste_strip<1>(paste, plan, paste.out, paste.gate, values, image, begin);
  }
}

}  // namespace
}  // namespace medad
