// Connected components by union-find over the runs of rows, one block an image. Included by gpu.cu
// only.
//
// A run is not stored: its number is the count of run starts before a pixel, so that a word of bits
// and a count a word are all there is to read, and every union of two rows falls out of a few
// operations on words. Parents have smaller numbers than their children, whatever the order of the
// threads: the root of a component is the run of its first pixel.
#pragma once

#include "ops/lung_mask/block.cuh"

namespace medad {
namespace {

// The number of the run that holds a pixel of the mask.
__device__ __forceinline__ int run_of(const Frame& frame, int64_t row, int64_t word, int bit) {
  const Neighbours<uint32_t> at =
      beside<uint32_t>(frame.bits + row * frame.shape.words, frame.shape, word);
  const uint32_t up_to_bit = ~0u >> (kWordBits - 1 - bit);
  return frame.base[row * frame.shape.words + word] + __popc(at.here & ~at.left & up_to_bit) - 1;
}

// Another thread may have changed it since the last look.
__device__ __forceinline__ int parent_now(const Frame& frame, int run) {
  return *static_cast<const volatile int*>(&frame.parent[run]);
}

__device__ __forceinline__ int root_of(const Frame& frame, int run) {
  for (int parent = parent_now(frame, run); parent != run; parent = parent_now(frame, run)) {
    run = parent;
  }
  return run;
}

__device__ __forceinline__ void join(const Frame& frame, int one, int other) {
  while (true) {
    one = root_of(frame, one);
    other = root_of(frame, other);
    if (one == other) return;
    const int high = one > other ? one : other, low = one > other ? other : one;
    const int before = atomicMin(&frame.parent[high], low);
    if (before == high) return;
    one = before;  // somebody else was quicker: join what it hangs from as well
    other = low;
  }
}

// How many runs there are; frame.base becomes the count before each word.
__device__ __forceinline__ int number_runs(const Frame& frame) {
  const int64_t words = frame.shape.height * frame.shape.words;
  int count = 0;
  for (int64_t start = 0; start < words; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    int starts = 0;
    if (i < words) {
      const uint32_t here = frame.bits[i];
      const bool first = i % frame.shape.words == 0;
      const uint32_t before = first ? 0 : frame.bits[i - 1] >> (kWordBits - 1);
      starts = __popc(here & ~(here << 1 | before));
    }
    int total;
    const int mine = count + block_sum_before(frame, starts, &total);
    if (i < words) frame.base[i] = mine;
    count += total;
  }
  return count;
}

// Visits each bit.
template <class Visit>
__device__ __forceinline__ void each_bit(uint32_t bits, Visit visit) {
  for (; bits != 0; bits &= bits - 1) visit(__ffs(int(bits)) - 1);
}

// Joins the runs of a word with those of the row above. Of all pairs of touching pixels, those are
// taken that no pair to their left makes superfluous.
template <bool kCorners>
__device__ __forceinline__ void join_above(const Frame& frame, int64_t row, int64_t word) {
  const Span<uint32_t> own = frame.bits + row * frame.shape.words;
  const Span<uint32_t> upper = frame.bits + (row - 1) * frame.shape.words;
  const Neighbours<uint32_t> at = beside<uint32_t>(own, frame.shape, word);
  if (at.here == 0) return;
  const Neighbours<uint32_t> above = beside<uint32_t>(upper, frame.shape, word);
  const uint32_t under = at.here & above.here;
  each_bit(under & ~(at.left & above.left), [&](int bit) {
    join(frame, run_of(frame, row, word, bit), run_of(frame, row - 1, word, bit));
  });
  if (!kCorners) return;
  each_bit(at.here & ~at.left & above.left & ~above.here, [&](int bit) {
    const int64_t there = bit > 0 ? word : word - 1;
    join(frame, run_of(frame, row, word, bit), run_of(frame, row - 1, there, (bit + 31) % 32));
  });
  each_bit(at.here & ~at.right & above.right & ~above.here, [&](int bit) {
    const int64_t there = bit < kWordBits - 1 ? word : word + 1;
    join(frame, run_of(frame, row, word, bit), run_of(frame, row - 1, there, (bit + 1) % 32));
  });
}

// Labels the mask: afterwards frame.parent of a run is the root of its component. 8-connected with
// corners, else 4-connected. Returns the number of runs.
template <bool kCorners>
__device__ __forceinline__ int label(const Frame& frame) {
  const int runs = number_runs(frame);
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) frame.parent[r] = int(r);
  __syncthreads();
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    if (row > 0) join_above<kCorners>(frame, row, word);
  });
  __syncthreads();
  // Roots do not change any more, and are all that a thread writes to a parent.
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) {
    frame.parent[r] = root_of(frame, int(r));
  }
  __syncthreads();
  return runs;
}

// Calls visit(mask, root) for each part of a run that lies in a word.
template <class Visit>
__device__ __forceinline__ void each_piece(const Frame& frame, int64_t row, int64_t word,
                                           Visit visit) {
  uint32_t bits = frame.bits[row * frame.shape.words + word];
  while (bits != 0) {
    const uint32_t lowest = bits & (0u - bits);
    const uint32_t piece = bits & ~(bits + lowest);  // the carry runs through it and out
    visit(piece, frame.parent[run_of(frame, row, word, __ffs(int(piece)) - 1)]);
    bits &= ~piece;
  }
}

__device__ __forceinline__ bool touches_border(const Frame& frame, int64_t row, int64_t word,
                                               uint32_t piece) {
  const uint32_t last = word + 1 == frame.shape.words ? 1u << (frame.shape.last_bits - 1) : 0;
  return row == 0 || row + 1 == frame.height || (word == 0 && (piece & 1)) || (piece & last);
}

// Sets frame.at_border of the roots of `runs` runs.
__device__ __forceinline__ void find_border(const Frame& frame, int runs) {
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) frame.at_border[r] = 0;
  __syncthreads();
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    each_piece(frame, row, word, [&](uint32_t piece, int root) {
      if (touches_border(frame, row, word, piece)) atomicOr(&frame.at_border[root], 1);
    });
  });
  __syncthreads();
}

__device__ __forceinline__ void find_areas(const Frame& frame, int runs) {
  for (int64_t r = threadIdx.x; r < runs; r += kThreads) frame.area[r] = 0;
  __syncthreads();
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    each_piece(frame, row, word,
               [&](uint32_t piece, int root) { atomicAdd(&frame.area[root], __popc(piece)); });
  });
  __syncthreads();
}

// Keeps the components whose roots `keep` accepts.
template <class Keep>
__device__ __forceinline__ void draw(Frame& frame, Keep keep) {
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    uint32_t kept = 0;
    each_piece(frame, row, word, [&](uint32_t piece, int root) { kept |= keep(root) ? piece : 0; });
    frame.other[row * frame.shape.words + word] = kept;
  });
  turn(frame);
}

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
