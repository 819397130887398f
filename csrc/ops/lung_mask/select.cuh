// Which components stay: the published cascade of "reference", the two largest of "clean". Included
// by lung_mask.cu only.
#pragma once

#include "ops/lung_mask/components.cuh"

namespace medad {
namespace {

using Key = unsigned long long;  // an area, then what makes the first component of equals larger

__device__ __forceinline__ void find_boxes(const Frame& frame, int runs) {
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) {
    frame.top[r] = frame.left[r] = INT32_MAX;
    frame.bottom[r] = frame.right[r] = -1;
  }
  __syncthreads();
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    each_piece(frame, row, word, [&](uint32_t piece, int root) {
      const int first = int(word) * kWordBits;
      atomicMin(&frame.top[root], int(row));
      atomicMax(&frame.bottom[root], int(row));
      atomicMin(&frame.left[root], first + __ffs(int(piece)) - 1);
      atomicMax(&frame.right[root], first + kWordBits - 1 - __clz(int(piece)));
    });
  });
  __syncthreads();
}

// Lists the roots of components of at least kSmallArea pixels, in ascending order.
__device__ __forceinline__ int list_large(const Frame& frame, int runs) {
  int count = 0;
  for (int64_t start = 0; start < runs; start += kThreads) {
    const int64_t r = start + threadIdx.x;
    const bool large = r < runs && frame.parent[r] == r && frame.area[r] >= kSmallArea;
    int total;
    const int place = count + block_sum_before(frame, large, &total);
    if (large) frame.large[place] = int(r);
    count += total;
  }
  __syncthreads();
  return count;
}

// Sets the bounding box of a component in frame.other: `step` threads, of which this is one, share
// its rows.
__device__ __forceinline__ void erase_box(const Frame& frame, int root, int thread, int step) {
  const int64_t left = frame.left[root], right = frame.right[root];
  for (int64_t row = int64_t(frame.top[root]) + thread; row <= frame.bottom[root]; row += step) {
    for (int64_t word = left / kWordBits; word <= right / kWordBits; ++word) {
      atomicOr(&frame.other[row * frame.shape.words + word],
               between_columns<uint32_t>(word, left, right));
    }
  }
}

__device__ __forceinline__ int area_left(const Frame& frame, int wanted) {
  int area = 0;
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    const int64_t i = row * frame.shape.words + word;
    const uint32_t there = frame.bits[i] & ~frame.other[i];
    if (there == 0 || row < frame.top[wanted] || row > frame.bottom[wanted]) return;
    each_piece(frame, row, word, [&](uint32_t piece, int root) {
      if (root == wanted) area += __popc(piece & there);
    });
  });
  return block_sum(frame, area);
}

// The published cascade: the bounding boxes of small components go in the order of their first
// pixels, with what lies in them of others. Whether a component is small to begin with does not
// depend on the order, so all boxes between two large ones go at once; each large one is measured
// again when its turn comes.
__device__ __forceinline__ void erase_small_boxes(Frame& frame, int runs) {
  find_areas(frame, runs);
  find_boxes(frame, runs);
  const int large = list_large(frame, runs);
  each_word(frame.shape,
            [&](int64_t row, int64_t word) { frame.other[row * frame.shape.words + word] = 0; });
  __syncthreads();
  int64_t done = 0;
  for (int k = 0; k <= large; ++k) {
    const int64_t next = k < large ? frame.large[k] : runs;
    for (int64_t r = done + threadIdx.x; r < next; r += kThreads) {
      if (frame.parent[r] == r && frame.area[r] < kSmallArea) erase_box(frame, int(r), 0, 1);
    }
    __syncthreads();
    if (k == large) break;
    if (area_left(frame, int(next)) < kSmallArea) {
      erase_box(frame, int(next), int(threadIdx.x), kThreads);
    }
    __syncthreads();
    done = next + 1;
  }
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    const int64_t i = row * frame.shape.words + word;
    frame.bits[i] &= ~frame.other[i];
  });
  __syncthreads();
}

// The two largest of two pairs, each in descending order.
__device__ __forceinline__ void merge(Key& first, Key& second, Key other_first, Key other_second) {
  const Key lower = first < other_first ? first : other_first;
  first = first < other_first ? other_first : first;
  second = second < other_second ? other_second : second;
  second = second < lower ? lower : second;
}

// Keeps the two largest components that are large enough.
__device__ __forceinline__ void keep_two_largest(Frame& frame, int runs) {
  MEDAD_SHARED(Key, keys, 2 * kWarps);
  find_areas(frame, runs);
  Key first = 0, second = 0;
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) {
    const int64_t area = frame.parent[r] == r ? frame.area[r] : 0;
    if (area * kLargeShare < frame.height * frame.width) continue;
    merge(first, second, Key(area) << 32 | (0xffffffffu - unsigned(r)), 0);
  }
  for (int step = 1; step < kLanes; step *= 2) {
    const Key other_first = __shfl_xor_sync(kAllLanes, first, step);
    const Key other_second = __shfl_xor_sync(kAllLanes, second, step);
    merge(first, second, other_first, other_second);
  }
  if (lane_of() == 0) {
    keys[2 * warp_of()] = first;
    keys[2 * warp_of() + 1] = second;
  }
  __syncthreads();
  first = second = 0;
  for (int w = 0; w < kWarps; ++w) merge(first, second, keys[2 * w], keys[2 * w + 1]);
  // No component has root -1.
  const int one = first == 0 ? -1 : int(0xffffffffu - unsigned(first));
  const int other = second == 0 ? -1 : int(0xffffffffu - unsigned(second));
  draw(frame, [&](int root) { return root == one || root == other; });
}

}  // namespace
}  // namespace medad
