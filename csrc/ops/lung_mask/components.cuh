// Connected components by union-find over the runs of rows, one block an image. Included by
// lung_mask.cu only.
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

}  // namespace
}  // namespace medad
