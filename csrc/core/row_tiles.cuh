// What contrastive losses on the GPU are made of: a block of 256 threads takes 32 rows, multiplies
// them with tiles of other rows, runs a softmax over the products, and multiplies the result with
// the other rows again.
//
// Tile sizes are not tuned on a device yet: chosen so that two blocks fit an H100 multiprocessor.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/tile_mma.cuh"

namespace medad::row_tiles {

constexpr int kThreads = 256;
constexpr int kRows = 32;        // of a block: 2 warps of 16
constexpr int kColumnWarps = 4;  // warps side by side over the columns
constexpr int kDepthStep = 32;   // of depth staged in shared memory at once
constexpr int kRowThreads = 8;   // threads that share a row in softmax

static_assert(kRowThreads * kRows == kThreads);
static_assert(kRows / 16 * kColumnWarps * 32 == kThreads);

// Columns of a logits tile and of the accumulated gradient; float64 takes half, in the same bytes.
template <class C>
constexpr int kTileColumns = sizeof(C) == 8 ? 64 : 128;
template <class C>
constexpr int kWidth = sizeof(C) == 8 ? 128 : 256;

// Steps of shared arrays, so that the fragments of a warp lie in different banks: 4 modulo 32 where
// its lanes read 8 rows by 4 columns, 8 where they read 4 rows by 8 columns.
constexpr int kStagedStep = kDepthStep + 4;
template <class C>
constexpr int kWideStep = kWidth<C> + 8;

template <class C>
constexpr int kStagedElements = (kRows + kTileColumns<C>)*kStagedStep > kDepthStep* kWideStep<C>
                                    ? (kRows + kTileColumns<C>)*kStagedStep
                                    : kDepthStep * kWideStep<C>;

// Step of the logits kept in shared memory: whole tiles, and 4 more for the banks.
template <class C>
__host__ __device__ constexpr int64_t strip_step(int64_t size) {
  return (size + kTileColumns<C> - 1) / kTileColumns<C> * kTileColumns<C> + 4;
}
template <class C>
constexpr int64_t shared_elements(int64_t size) {
  return kStagedElements<C> + kRows * strip_step<C>(size);
}

// kRows x kTileColumns of own . other^T into `tile`, zero where either runs out of rows. Threads
// may still read the last tile when they call this: it is written after the first barrier in here.
//
// kPrefetch loads the next step of depth while this one is multiplied, at the cost of registers.
template <Precision kPrecision, bool kPrefetch, class T, class C>
__device__ void multiply_rows_by_rows(Span<const T> own, int64_t own_rows, Span<const T> other,
                                      int64_t other_rows, int64_t depth, Span<C> staged,
                                      Span<C> tile, int tile_step) {
  constexpr int kColumns = kTileColumns<C>;
  constexpr int kTiles = kColumns / 8 / kColumnWarps;
  constexpr int kLoads = (kRows + kColumns) * kDepthStep / kThreads;
  constexpr int kRowsAtOnce = kThreads / kDepthStep;
  const int warp = threadIdx.x / 32, column_warp = warp % kColumnWarps;
  const int row = warp / kColumnWarps * 16;
  const int needed = int(other_rows < kColumns ? (other_rows + 7) / 8 : kColumns / 8);
  const int tiles = (needed - column_warp + kColumnWarps - 1) / kColumnWarps;
  const int load_column = threadIdx.x % kDepthStep, load_row = threadIdx.x / kDepthStep;

  const auto load = [&](int64_t from, int n) {
    const int r = load_row + n * kRowsAtOnce;
    const bool mine = r < kRows;
    const int64_t d = from + load_column, source = mine ? r : r - kRows;
    const bool inside = d < depth && source < (mine ? own_rows : other_rows);
    return inside ? C(to_float((mine ? own : other)[source * depth + d])) : C(0);
  };
  const auto stage = [&](int n, C value) {
    staged[(load_row + n * kRowsAtOnce) * kStagedStep + load_column] = value;
  };

  C sum[kTiles][4] = {};
  C next[kPrefetch ? kLoads : 1];
  const auto load_next = [&](int64_t from) {
#pragma unroll
    for (int n = 0; kPrefetch && n < kLoads; ++n) next[n] = load(from, n);
  };
  load_next(0);
  for (int64_t from = 0; from < depth; from += kDepthStep) {
    __syncthreads();
    if (kPrefetch) {
#pragma unroll
      for (int n = 0; n < kLoads; ++n) stage(n, next[kPrefetch ? n : 0]);
    } else {
#pragma unroll 4
      for (int n = 0; n < kLoads; ++n) stage(n, load(from, n));
    }
    __syncthreads();
    if (from + kDepthStep < depth) load_next(from + kDepthStep);
    warp_multiply<kPrecision, true>(sum, tiles, Span<const C>(staged + row * kStagedStep),
                                    kStagedStep, Span<const C>(staged + kRows * kStagedStep),
                                    kStagedStep, column_warp * 8, kColumnWarps * 8, kDepthStep);
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = (column_warp + t * kColumnWarps) * 8 + sum_column(lane, e);
      tile[(row + sum_row(lane, e)) * tile_step + column] = sum[t][e];
    }
  }
  __syncthreads();
}

template <class C>
struct Sum {
  static constexpr int kTiles = kWidth<C> / 8 / kColumnWarps;
  C value[kTiles][4];
};

// sum += tile (kRows x rows) times `rows` rows of other, columns first .. first + kWidth.
template <Precision kPrecision, class T, class C>
__device__ void multiply_tile_by_rows(Sum<C>& sum, Span<const C> tile, int tile_step,
                                      Span<const T> other, int64_t rows, int64_t depth,
                                      int64_t first, Span<C> staged) {
  constexpr int kLoads = kDepthStep * kWidth<C> / kThreads;
  constexpr int kRowsAtOnce = kThreads / kWidth<C>;
  const int warp = threadIdx.x / 32, column_warp = warp % kColumnWarps;
  const int row = warp / kColumnWarps * 16;
  const int64_t left = depth - first;
  const int needed = int(left < kWidth<C> ? (left + 7) / 8 : kWidth<C> / 8);
  const int tiles = (needed - column_warp + kColumnWarps - 1) / kColumnWarps;
  const int load_column = threadIdx.x % kWidth<C>, load_row = threadIdx.x / kWidth<C>;

  for (int64_t from = 0; from < rows; from += kDepthStep) {
    __syncthreads();
#pragma unroll 4
    for (int n = 0; n < kLoads; ++n) {
      const int r = load_row + n * kRowsAtOnce;
      const bool inside = from + r < rows && load_column < left;
      staged[r * kWideStep<C> + load_column] =
          inside ? C(to_float(other[(from + r) * depth + first + load_column])) : C(0);
    }
    __syncthreads();
    warp_multiply<kPrecision, false>(
        sum.value, tiles, Span<const C>(tile + (row * tile_step + int(from))), tile_step,
        Span<const C>(staged), kWideStep<C>, column_warp * 8, kColumnWarps * 8, kDepthStep);
  }
}

template <class T, class C>
__device__ void write_sum(const Sum<C>& sum, Span<T> out, int64_t rows, int64_t depth,
                          int64_t first) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < Sum<C>::kTiles; ++t) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t row = warp / kColumnWarps * 16 + sum_row(lane, e);
      const int64_t column =
          first + (warp % kColumnWarps + t * kColumnWarps) * 8 + sum_column(lane, e);
      if (row < rows && column < depth) out[row * depth + column] = from_float<T>(sum.value[t][e]);
    }
  }
}

// Over kLanes neighbouring lanes, known to all of them.
template <class C, int kLanes = kRowThreads>
__device__ __forceinline__ C across_row(C value, C (*combine)(C, C)) {
  for (int bits = kLanes / 2; bits > 0; bits /= 2) {
    value = combine(value, __shfl_xor_sync(~0u, value, bits));
  }
  return value;
}
template <class C>
__device__ __forceinline__ C larger_of(C a, C b) {
  return b > a ? b : a;
}
template <class C>
__device__ __forceinline__ C sum_of(C a, C b) {
  return a + b;
}

// What kRowThreads threads know of a row while its logits go by: logits before the division by T.
template <class C>
struct RunningSoftmax {
  C top = -C(INFINITY);  // the largest logit, the positive's included
  C others = 0;          // sum of exp((logit - top) / T) without the positive
  C positive = 0;        // its logit, at the one thread that met it

  __device__ void add(C logit, bool is_positive, C inverse_temperature) {
    if (logit > top) {
      others *= std::exp((top - logit) * inverse_temperature);
      top = logit;
    }
    if (is_positive) {
      positive = logit;
    } else if (!(logit == -C(INFINITY))) {  // NaN goes on
      others += std::exp((logit - top) * inverse_temperature);
    }
  }

  // All threads of the row know all of it afterwards. `constant` may be one logit more.
  __device__ void finish(C inverse_temperature, bool has_constant, C constant) {
    C whole = across_row<C>(top, larger_of<C>);
    if (has_constant && whole < constant) whole = constant;
    // A thread that met no logit has top = -inf, and the factor is 0.
    others = across_row<C>(others * std::exp((top - whole) * inverse_temperature), sum_of<C>);
    if (has_constant) others += std::exp((constant - whole) * inverse_temperature);
    positive = across_row<C>(positive, sum_of<C>);
    top = whole;
  }
};

// Calls visit(zero of T, zero of C, precision of products) for elements of type T that are computed
// in C; kHalf is the precision for the 16-bit types.
template <Precision kHalf, class Visit>
void with_precision(DType dtype, Visit visit) {
  with_floating_type(dtype, [&](auto zero) {
    using C = typename Compute<decltype(zero)>::type;
    constexpr Precision kWhole = sizeof(C) == 8 ? Precision::kOrdinary : Precision::kTf32x3;
    visit(zero, C(), std::integral_constant<Precision, sizeof(zero) == 2 ? kHalf : kWhole>());
  });
}

}  // namespace medad::row_tiles
