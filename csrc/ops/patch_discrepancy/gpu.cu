// Patch discrepancy on the GPU: the layers' distances, then their resize into the map.
//
// Bound by memory: each feature is read once, against 3 multiply-adds a pair. A block takes a run
// of positions of one image, all layers in one grid. Neighbouring threads read neighbouring
// positions, four at once where 16-byte loads are aligned, and the block's warps share out the
// channels, so that small deep maps fill the device too. Where the channels lie together
// (channels_last) a thread reads four of them at once instead, in the same order, and so comes to
// the same bits. Sums are doubles: 4 multiply-adds a pair hide behind the loads, and nothing else
// keeps the digits of nearly equal vectors in one pass (patch_discrepancy.h). The resize, and its
// adjoint, gather in a fixed order: no atomics, the same bits on every run.

#include "ops/patch_discrepancy/distance.cuh"
#include "ops/patch_discrepancy/heads.cuh"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad {
namespace {

// The bilinear resize of the layers' distances, and its adjoint. Their inputs are a hundredth of
// the features and come from L2; what costs is the arithmetic of the taps, so each thread forms
// those of a column once and uses them for many rows.
constexpr int kRowsPerBlock = 8;
constexpr int kGatherThreads = 128;
constexpr int kGatherRows = 64;  // rows of the map whose weights a block holds at once

template <class M>
struct Resize {
  Span<M> map;                // out, or the gradient that comes in
  Span<M> layer[kMaxLayers];  // (B, H, W) each
  int64_t heights[kMaxLayers], widths[kMaxLayers];
  int count, first;  // layers here, and before them
  int64_t rows;      // of all layers here
  int64_t batch, height, width;
  bool separate, last;
  M scale;
};

template <class M>
Resize<M> resize_of(const DiscrepancyJob& job, int first, int count, int64_t start) {
  Resize<M> resize{};
  const int64_t maps = job.batch * (job.separate ? job.layer_count : 1);
  resize.map = span_of_extent<M>(job.map, maps * job.height * job.width);
  for (int l = 0; l < count; ++l) {
    const DiscrepancyLayer& layer = job.layers[first + l];
    const int64_t elements = job.batch * layer.height * layer.width;
    resize.layer[l] = span_of_extent<M>(static_cast<M*>(job.scratch) + start, elements);
    resize.heights[l] = layer.height;
    resize.widths[l] = layer.width;
    resize.rows += layer.height;
    start += elements;
  }
  resize.count = count;
  resize.first = first;
  resize.batch = job.batch;
  resize.height = job.height;
  resize.width = job.width;
  resize.separate = job.separate;
  resize.last = first + count == job.layer_count;
  resize.scale = M(job.scale);
  return resize;
}

template <class M>
__device__ __forceinline__ M between(M weight, M first, M second) {
  return first + weight * (second - first);
}

// A block makes kRowsPerBlock rows of one map, kThreads columns wide.
template <class M>
__global__ void __launch_bounds__(kThreads)
    resize_kernel(const __grid_constant__ Resize<M> resize) {
  const int64_t columns = (resize.width + kThreads - 1) / kThreads;
  const int64_t strips = (resize.height + kRowsPerBlock - 1) / kRowsPerBlock;
  const int64_t x = int64_t(blockIdx.x) % columns * kThreads + threadIdx.x;
  const int64_t strip = int64_t(blockIdx.x) / columns % strips;
  const int64_t map = int64_t(blockIdx.x) / columns / strips;
  if (x >= resize.width) return;
  const int64_t image = map % resize.batch;
  const int first_layer = resize.separate ? int(map / resize.batch) : 0;
  const int last_layer = resize.separate ? first_layer + 1 : resize.count;
  const int64_t out_map = map + (resize.separate ? resize.first * resize.batch : 0);
  const int64_t out = out_map * resize.height * resize.width + x;

  M sum[kRowsPerBlock] = {};
#pragma unroll
  for (int r = 0; r < kRowsPerBlock; ++r) {
    const int64_t row = strip * kRowsPerBlock + r;
    // Layers of an earlier launch are in the map already.
    if (!resize.separate && resize.first > 0 && row < resize.height) {
      sum[r] = resize.map[out + row * resize.width];
    }
  }
  for (int l = first_layer; l < last_layer; ++l) {
    const int64_t width = resize.widths[l], height = resize.heights[l];
    const Tap column = tap_of(x, width, resize.width);
    const M right = M(column.weight);
    const Span<M> from = resize.layer[l] + image * height * width;
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      const int64_t target = strip * kRowsPerBlock + r;
      if (target >= resize.height) break;
      const Tap row = tap_of(target, height, resize.height);
      const int64_t above = row.first * width, below = row.second * width;
      sum[r] += between(M(row.weight),
                        between(right, from[above + column.first], from[above + column.second]),
                        between(right, from[below + column.first], from[below + column.second]));
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerBlock; ++r) {
    const int64_t row = strip * kRowsPerBlock + r;
    if (row < resize.height) {
      resize.map[out + row * resize.width] = resize.last ? sum[r] * resize.scale : sum[r];
    }
  }
}

// How much of map element `target` lies on layer element `source`.
__device__ __forceinline__ double share_of(int64_t target, int64_t source, int64_t from,
                                           int64_t to) {
  const Tap tap = tap_of(target, from, to);
  return (tap.first == source ? 1 - tap.weight : 0) + (tap.second == source ? tap.weight : 0);
}

// Map elements whose taps can reach `source`: a range that holds them all.
__device__ __forceinline__ int64_t first_target(int64_t source, int64_t from, int64_t to) {
  const int64_t first = (2 * source - 1) * to / (2 * from) - 1;
  return source <= 1 || first < 0 ? 0 : first;
}

__device__ __forceinline__ int64_t last_target(int64_t source, int64_t from, int64_t to) {
  const int64_t last = (2 * source + 3) * to / (2 * from) + 2;
  return last > to ? to : last;
}

// A block takes one row of one layer of one image: threads along the row, the weights of the map's
// rows shared.
template <class M>
__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(const __grid_constant__ Resize<M> resize) {
  MEDAD_SHARED(M, weights, kGatherRows);
  const int64_t image = int64_t(blockIdx.x) / resize.rows;
  int64_t row = int64_t(blockIdx.x) % resize.rows;
  int l = 0;
  while (row >= resize.heights[l]) row -= resize.heights[l++];
  const int64_t width = resize.widths[l], height = resize.heights[l];
  const int64_t map = image + (resize.separate ? (resize.first + l) * resize.batch : 0);
  const Span<M> from = resize.map + map * resize.height * resize.width;
  const Span<M> to = resize.layer[l] + (image * height + row) * width;
  const int64_t y_end = last_target(row, height, resize.height);
  // All threads go round together, for the barriers.
  for (int64_t base = 0; base < width; base += kGatherThreads) {
    const int64_t column = base + threadIdx.x;
    const int64_t x_first = first_target(column, width, resize.width);
    const int64_t x_end = column < width ? last_target(column, width, resize.width) : 0;
    M sum = 0;
    for (int64_t y = first_target(row, height, resize.height); y < y_end; y += kGatherRows) {
      const int64_t rows = y_end - y < kGatherRows ? y_end - y : kGatherRows;
      __syncthreads();
      if (int64_t(threadIdx.x) < rows) {
        weights[threadIdx.x] = M(share_of(y + threadIdx.x, row, height, resize.height));
      }
      __syncthreads();
      for (int64_t x = x_first; x < x_end; ++x) {
        const M weight = M(share_of(x, column, width, resize.width));
        if (weight == 0) continue;
        M down = 0;
        for (int64_t r = 0; r < rows; ++r) {
          if (weights[r] != 0) down += weights[r] * from[(y + r) * resize.width + x];
        }
        sum += weight * down;
      }
    }
    if (column < width) to[column] = sum * resize.scale;
  }
}

// As many layers as the parameters of a kernel can hold at once.
template <class Visit>
void each_chunk(const DiscrepancyJob& job, Visit visit) {
  int64_t start = 0;
  for (int first = 0; first < job.layer_count; first += kMaxLayers) {
    const int count = job.layer_count - first < kMaxLayers ? job.layer_count - first : kMaxLayers;
    visit(first, count, start);
    for (int l = first; l < first + count; ++l) {
      start += job.batch * job.layers[l].height * job.layers[l].width;
    }
  }
}

template <class T>
void forward(const DiscrepancyJob& job, const Launch& launch) {
  using M = typename Compute<T>::type;
  const bool with_heads = job.layers[0].head.w1 != nullptr;
  each_chunk(job, [&](int first, int count, int64_t start) {
    if (with_heads) {
      launch_heads<T>(job, first, count, start, launch);
    } else {
      launch_discrepancy<T, false>(layers_of<T>(job, first, count, start), launch.stream);
    }
    const Resize<M> resize = resize_of<M>(job, first, count, start);
    const int64_t columns = (job.width + kThreads - 1) / kThreads;
    const int64_t rows = (job.height + kRowsPerBlock - 1) / kRowsPerBlock;
    const int64_t maps = job.batch * (job.separate ? count : 1);
    MEDAD_LAUNCH(resize_kernel<M>, grid_of(columns * rows * maps, "features"), dim3(kThreads), 0,
                 launch.stream, resize);
  });
}

template <class T>
void backward(const DiscrepancyJob& job, const Launch& launch) {
  using M = typename Compute<T>::type;
  each_chunk(job, [&](int first, int count, int64_t start) {
    const Resize<M> resize = resize_of<M>(job, first, count, start);
    MEDAD_LAUNCH(gather_kernel<M>, grid_of(job.batch * resize.rows, "features"),
                 dim3(kGatherThreads), 0, launch.stream, resize);
    launch_discrepancy<T, true>(layers_of<T>(job, first, count, start), launch.stream);
  });
}

}  // namespace

void patch_discrepancy_cuda(const DiscrepancyJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype, [&](auto zero) { forward<decltype(zero)>(job, launch); });
}

void patch_discrepancy_backward_cuda(const DiscrepancyJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype, [&](auto zero) { backward<decltype(zero)>(job, launch); });
}

}  // namespace medad
