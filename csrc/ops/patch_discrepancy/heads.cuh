// The distance of projected vectors on the GPU. Included by gpu.cu only.
//
// Bound by arithmetic: a block takes some positions of one image through both layers of the head,
// for both sides at once, so that a weight that was fetched serves twice as many products. The
// hidden layers stay in shared memory, the projections in registers, 64 rows at a time: they are
// added to the sums and forgotten. Products are float32 (float64 for float64) fused multiply-adds.
#pragma once

#include "core/gpu.cuh"
#include "ops/patch_discrepancy/distance.cuh"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad {
namespace {

constexpr int kTileRows = 64;             // rows of weights a block multiplies at once
constexpr int kDepth = 16;                // elements of a row it holds at once
constexpr int kThreadRows = 4;            // of those rows, a thread's
constexpr int kAcross = 16;               // threads along the positions
constexpr int kWeightPitch = kDepth + 1;  // one more, so that rows start in different banks
static_assert(kThreads == kAcross * kTileRows / kThreadRows, "a thread for each patch of the tile");

template <class T>
struct HeadLayer {
  Side<const T> a, b;
  Span<const T> w1, b1, w2, b2;
  Span<typename Compute<T>::type> map;
  int64_t channels, hidden, projected, height, width;
  int64_t first_block, blocks_an_image;
};

template <class T>
struct HeadLayers {
  HeadLayer<T> layer[kMaxLayers];
  int count;
  int64_t blocks;
};

// What a block works in.
template <class R>
struct HeadMemory {
  Span<R> hidden_a, hidden_b;  // (D1, positions)
  Span<R> a, b;                // (kDepth, positions)
  Span<R> weights;             // (kTileRows, kWeightPitch)
};

template <class R>
size_t head_bytes(int64_t hidden, int positions) {
  const size_t tiles = sizeof(R) * (2 * (hidden + kDepth) * positions + kTileRows * kWeightPitch);
  const size_t sums = sizeof(Sum) * kThreads / kAcross * positions;
  return tiles > sums ? tiles : sums;
}

// A (rows, depth) tile of row-major weights, zeros beyond them.
template <class T, class R>
__device__ __forceinline__ void load_weights(const Span<const T>& from, int64_t rows, int64_t depth,
                                             int64_t row, int64_t k, const Span<R>& to) {
  for (int e = threadIdx.x; e < kTileRows * kDepth; e += kThreads) {
    const int r = e / kDepth, d = e % kDepth;
    const bool there = row + r < rows && k + d < depth;
    to[r * kWeightPitch + d] = there ? R(to_float(from[(row + r) * depth + k + d])) : R(0);
  }
}

// A (kDepth, kPositions) tile of vectors, zeros beyond them; threads run along whichever axis lies
// together in memory.
template <class T, class R, int kPositions>
__device__ __forceinline__ void load_vectors(const Side<const T>& side, const HeadLayer<T>& layer,
                                             int64_t image, int64_t first, int64_t k,
                                             const Span<R>& to) {
  const bool channels_together = side.channel_stride == 1;
  for (int e = threadIdx.x; e < kDepth * kPositions; e += kThreads) {
    const int d = channels_together ? e % kDepth : e / kPositions;
    const int p = channels_together ? e / kDepth : e % kPositions;
    const int64_t position = first + p;
    const bool there = k + d < layer.channels && position < layer.height * layer.width;
    R value = 0;
    if (there) {
      value = R(
          to_float(side.data[place_of(side, image, position / layer.width, position % layer.width) +
                             (k + d) * side.channel_stride]));
    }
    to[d * kPositions + p] = value;
  }
}

// The thread's patch of weights (rows row .. row + kTileRows) times both sides' vectors.
template <class R, int kEach>
struct Patch {
  R a[kThreadRows][kEach], b[kThreadRows][kEach];
};

template <class R, int kEach>
__device__ __forceinline__ void multiply(const Span<R>& weights, const Span<R>& a, const Span<R>& b,
                                         Patch<R, kEach>& patch) {
  constexpr int kPositions = kAcross * kEach;
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    R x[kEach], y[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      x[j] = a[k * kPositions + tx + kAcross * j];
      y[j] = b[k * kPositions + tx + kAcross * j];
    }
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      const R weight = weights[(ty * kThreadRows + r) * kWeightPitch + k];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        patch.a[r][j] += weight * x[j];
        patch.b[r][j] += weight * y[j];
      }
    }
  }
}

template <class T, int kEach>
__device__ __forceinline__ void hide(const HeadLayer<T>& layer, int64_t image, int64_t first,
                                     const HeadMemory<typename Compute<T>::type>& memory) {
  using R = typename Compute<T>::type;
  constexpr int kPositions = kAcross * kEach;
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
  for (int64_t row = 0; row < layer.hidden; row += kTileRows) {
    Patch<R, kEach> patch = {};
    for (int64_t k = 0; k < layer.channels; k += kDepth) {
      __syncthreads();
      load_weights<T, R>(layer.w1, layer.hidden, layer.channels, row, k, memory.weights);
      load_vectors<T, R, kPositions>(layer.a, layer, image, first, k, memory.a);
      load_vectors<T, R, kPositions>(layer.b, layer, image, first, k, memory.b);
      __syncthreads();
      multiply<R, kEach>(memory.weights, memory.a, memory.b, patch);
    }
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      const int64_t h = row + ty * kThreadRows + r;
      if (h >= layer.hidden) break;
      const R bias = R(to_float(layer.b1[h]));
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const R a = patch.a[r][j] + bias, b = patch.b[r][j] + bias;
        // Written so that NaN stays NaN.
        memory.hidden_a[h * kPositions + tx + kAcross * j] = a < R(0) ? R(0) : a;
        memory.hidden_b[h * kPositions + tx + kAcross * j] = b < R(0) ? R(0) : b;
      }
    }
  }
}

// Adds the thread's rows of both projections to the sums of its positions.
template <class T, int kEach>
__device__ __forceinline__ void project(const HeadLayer<T>& layer,
                                        const HeadMemory<typename Compute<T>::type>& memory,
                                        Sum (&sum)[kEach]) {
  using R = typename Compute<T>::type;
  constexpr int kPositions = kAcross * kEach;
  const int ty = threadIdx.x / kAcross;
  for (int64_t row = 0; row < layer.projected; row += kTileRows) {
    Patch<R, kEach> patch = {};
    for (int64_t k = 0; k < layer.hidden; k += kDepth) {
      __syncthreads();
      load_weights<T, R>(layer.w2, layer.projected, layer.hidden, row, k, memory.weights);
      // The last tile may reach past the hidden layer; weights are 0 there, so values must not be
      // NaN.
      for (int e = threadIdx.x; e < kDepth * kPositions; e += kThreads) {
        const bool there = k + e / kPositions < layer.hidden;
        memory.a[e] = there ? memory.hidden_a[k * kPositions + e] : R(0);
        memory.b[e] = there ? memory.hidden_b[k * kPositions + e] : R(0);
      }
      __syncthreads();
      multiply<R, kEach>(memory.weights, memory.a, memory.b, patch);
    }
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      const int64_t z = row + ty * kThreadRows + r;
      if (z >= layer.projected) break;
      const R bias = R(to_float(layer.b2[z]));
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        add_pair(R(patch.a[r][j] + bias), R(patch.b[r][j] + bias), sum[j]);
      }
    }
  }
}

// Blocks a multiprocessor shall hold: left to choose, the compiler spills to make room for one
// more. Four positions a thread need its registers, and mostly the shared memory, for themselves.
constexpr int blocks_together(int each) { return each < 4 ? 2 : 1; }

template <class T, int kEach>
__global__ void __launch_bounds__(kThreads, blocks_together(kEach))
    head_kernel(const __grid_constant__ HeadLayers<T> layers) {
  using R = typename Compute<T>::type;
  constexpr int kPositions = kAcross * kEach;
  MEDAD_DYNAMIC_SHARED(uint4, shared);
  int l = layers.count - 1;
  while (layers.layer[l].first_block > int64_t(blockIdx.x)) --l;
  const HeadLayer<T>& layer = layers.layer[l];
  const int64_t block = int64_t(blockIdx.x) - layer.first_block;
  const int64_t image = block / layer.blocks_an_image;
  const int64_t first = block % layer.blocks_an_image * kPositions;
  const int64_t positions = layer.height * layer.width;

  const Span<R> all = span_cast<R>(shared);
  HeadMemory<R> memory;
  memory.hidden_a = all;
  memory.hidden_b = memory.hidden_a + layer.hidden * kPositions;
  memory.a = memory.hidden_b + layer.hidden * kPositions;
  memory.b = memory.a + kDepth * kPositions;
  memory.weights = memory.b + kDepth * kPositions;
  hide<T, kEach>(layer, image, first, memory);
  Sum sum[kEach] = {};
  project<T, kEach>(layer, memory, sum);

  // The rows' shares of the sums, added in one order.
  const Span<Sum> shares = span_cast<Sum>(shared);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int p = int(threadIdx.x) % kAcross + kAcross * j;
    shares[int(threadIdx.x) / kAcross * kPositions + p] = sum[j];
  }
  __syncthreads();
  const int p = int(threadIdx.x);
  if (p >= kPositions || first + p >= positions) return;
  Sum total = {};
  for (int t = 0; t < kThreads / kAcross; ++t) {
    const Sum share = shares[t * kPositions + p];
    total.a += share.a;
    total.b += share.b;
    total.difference += share.difference;
  }
  layer.map[image * positions + first + p] = R(distance_of(total.a, total.b, total.difference));
}

template <class T, int kEach>
void launch_heads_of(const DiscrepancyJob& job, int first, int count, int64_t start, size_t bytes,
                     const Launch& launch) {
  using M = typename Compute<T>::type;
  HeadLayers<T> layers{};
  layers.count = count;
  for (int l = 0; l < count; ++l) {
    const DiscrepancyLayer& from = job.layers[first + l];
    HeadLayer<T>& to = layers.layer[l];
    const int64_t positions = from.height * from.width;
    to.a = side_of<const T>(from.features, from, job.batch);
    to.b = side_of<const T>(from.reconstructed, from, job.batch);
    to.channels = from.channels;
    to.hidden = from.head.hidden;
    to.projected = from.head.projected;
    to.w1 = span_of_extent<const T>(from.head.w1, to.hidden * to.channels);
    to.b1 = span_of_extent<const T>(from.head.b1, to.hidden);
    to.w2 = span_of_extent<const T>(from.head.w2, to.projected * to.hidden);
    to.b2 = span_of_extent<const T>(from.head.b2, to.projected);
    to.map = span_of_extent<M>(static_cast<M*>(job.scratch) + start, job.batch * positions);
    to.height = from.height;
    to.width = from.width;
    to.first_block = layers.blocks;
    to.blocks_an_image = (positions + kAcross * kEach - 1) / (kAcross * kEach);
    layers.blocks += job.batch * to.blocks_an_image;
    start += job.batch * positions;
  }
  allow_shared(head_kernel<T, kEach>, int64_t(bytes));
  MEDAD_LAUNCH((head_kernel<T, kEach>), grid_of(layers.blocks, "features"), dim3(kThreads), bytes,
               launch.stream, layers);
}

// With as many positions a block as its shared memory holds, and two blocks a multiprocessor if it
// can: one computes while the other waits for its loads.
template <class T>
void launch_heads(const DiscrepancyJob& job, int first, int count, int64_t start,
                  const Launch& launch) {
  using R = typename Compute<T>::type;
  int64_t hidden = 0;
  for (int l = first; l < first + count; ++l) {
    hidden = job.layers[l].head.hidden > hidden ? job.layers[l].head.hidden : hidden;
  }
  const size_t available = size_t(shared_limit(launch.device));
  const auto bytes = [&](int each) { return head_bytes<R>(hidden, kAcross * each); };
  const auto fits = [&](int each) { return bytes(each) <= available; };
  if constexpr (sizeof(R) == 4) {  // more float64 positions would not fit the registers
    if (fits(4)) return launch_heads_of<T, 4>(job, first, count, start, bytes(4), launch);
    if (fits(2)) return launch_heads_of<T, 2>(job, first, count, start, bytes(2), launch);
  }
  MEDAD_CHECK(fits(1),
              "heads: a hidden layer of " << hidden << " does not fit this GPU's shared memory");
  launch_heads_of<T, 1>(job, first, count, start, bytes(1), launch);
}

}  // namespace
}  // namespace medad
