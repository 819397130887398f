// One image and the block of threads that works on it. Included by gpu.cu only.
#pragma once

#include "core/gpu.cuh"
#include "ops/lung_mask/bits.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad {
namespace {

constexpr int kThreads = 1024;  // an image is one block's work: all the threads that one can have
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWordBits = 32;
constexpr int64_t kStaticBytes = 6 << 10;  // shared memory of fixed size, at most
constexpr int64_t kHistogramBytes = int64_t(kWarps) * kBins * 4;  // one a warp

// What is at `offset` bytes of some memory, as `count` elements.
template <class T, class Byte>
__device__ __forceinline__ Span<T> part_of(Span<Byte> memory, int64_t offset, int64_t count) {
#ifdef MEDAD_EMULATION
  return {reinterpret_cast<T*>(memory.checked(offset, count * int64_t(sizeof(T)), 1)), count};
#else
  (void)count;
  return span_cast<T>(memory + offset);
#endif
}

struct Job {
  Span<const uint8_t> images;
  Span<uint8_t> out;
  Span<uint8_t> scratch;
  int64_t height, width;
  LungLayout layout;
  ClaheGrid grid;
  bool in_shared;  // the layout's hot parts
  bool aligned;    // rows begin at multiples of 16 bytes
};

struct Frame {
  Span<const uint8_t> image;
  Span<uint8_t> out;
  int64_t height, width;
  BitShape shape;
  Span<uint32_t> bits, other;  // the mask so far, and where its next step goes
  Span<int> base;              // runs before each word
  Span<int> parent;
  Span<int> area, at_border, top, bottom, left, right, large;
  Span<uint16_t> equalised, levels;
  Span<int> histograms;  // kWarps of them, where the hot parts lie: only before there are bits
  Span<int> shared;      // kLanes, for reductions
  bool aligned;
};

__device__ __forceinline__ int lane_of() { return int(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_of() { return int(threadIdx.x) / kLanes; }

// Calls visit(row, word) for each word of the image, neighbouring words by neighbouring threads.
template <class Visit>
__device__ __forceinline__ void each_word(const BitShape& shape, Visit visit) {
  const int across = shape.words < kThreads ? int(shape.words) : kThreads;
  const int rows = kThreads / across;
  if (int(threadIdx.x) >= rows * across) return;
  for (int64_t row = int(threadIdx.x) / across; row < shape.height; row += rows) {
    for (int64_t word = int(threadIdx.x) % across; word < shape.words; word += across) {
      visit(row, word);
    }
  }
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

// The sum over the block, known to all threads. All must call.
__device__ __forceinline__ int block_sum(const Frame& frame, int value) {
  value = warp_sum(value);
  __syncthreads();
  if (lane_of() == 0) frame.shared[warp_of()] = value;
  __syncthreads();
  return warp_sum(frame.shared[lane_of()]);
}

// The sum over all threads before this one; `total` becomes that over all. All must call.
__device__ __forceinline__ int block_sum_before(const Frame& frame, int value, int* total) {
  const int lane = lane_of();
  int inclusive = value;
  for (int step = 1; step < kLanes; step *= 2) {
    const int before = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane >= step) inclusive += before;
  }
  __syncthreads();
  if (lane == kLanes - 1) frame.shared[warp_of()] = inclusive;
  __syncthreads();
  const int of_warp = frame.shared[lane];
  *total = warp_sum(of_warp);
  return warp_sum(lane < warp_of() ? of_warp : 0) + inclusive - value;
}

// From `bits` to `other` and back: what was the mask becomes the place of the next one.
__device__ __forceinline__ void turn(Frame& frame) {
  __syncthreads();
  const Span<uint32_t> bits = frame.bits;
  frame.bits = frame.other;
  frame.other = bits;
}

__device__ __forceinline__ void dilate(Frame& frame) {
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    frame.other[row * frame.shape.words + word] =
        dilated<uint32_t>(frame.bits, frame.shape, row, word);
  });
  turn(frame);
}

__device__ __forceinline__ void erode(Frame& frame) {
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    frame.other[row * frame.shape.words + word] =
        eroded<uint32_t>(frame.bits, frame.shape, row, word);
  });
  turn(frame);
}

__device__ __forceinline__ void complement(Frame& frame) {
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    const int64_t i = row * frame.shape.words + word;
    frame.bits[i] = ~frame.bits[i] & whole_word<uint32_t>(frame.shape, word);
  });
  __syncthreads();
}

// Bytes of 0 and 1 from bits.
__device__ __forceinline__ void write_out(const Frame& frame) {
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    const uint32_t bits = frame.bits[row * frame.shape.words + word];
    const int64_t first = row * frame.width + word * kWordBits;
    const int count = word + 1 < frame.shape.words ? kWordBits : frame.shape.last_bits;
    if (frame.aligned && count == kWordBits) {
      for (int half = 0; half < 2; ++half) {
        unsigned four[4];
        for (int i = 0; i < 4; ++i) {
          const uint32_t nibble = bits >> (half * 16 + i * 4) & 0xf;
          // Copies 7 bits apart put bit k at the foot of byte k.
          four[i] = nibble * 0x00204081u & 0x01010101u;
        }
        store_vector(frame.out, first + half * 16, uint4{four[0], four[1], four[2], four[3]});
      }
    } else {
      for (int i = 0; i < count; ++i) frame.out[first + i] = uint8_t(bits >> i & 1);
    }
  });
}

}  // namespace
}  // namespace medad
