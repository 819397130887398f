// The distance of each position, and its gradient. Included by gpu.cu only.
#pragma once

#include "core/gpu.cuh"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad {
namespace {

constexpr int kMaxLayers = 8;  // what fits in the 4 KB of a kernel's parameters
constexpr int kThreads = 256;  // 8 warps: enough to share out 64 channels by eights
constexpr int kWarpSize = 32;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kFour = 4;  // elements a vector load moves
constexpr int kMaxPositions = kWarpSize * kFour;

template <class T>
struct Side {
  Span<T> data;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
};

// How a thread walks over its vectors.
enum class Walk : int {
  kRows,      // four neighbouring positions at once
  kChannels,  // four neighbouring channels at once
  kSingle     // any strides
};

template <class T>
struct Layer {
  Side<const T> a, b;
  Side<T> grad_a, grad_b;
  Span<typename Compute<T>::type> map;  // (B, H, W): distances, or their gradients
  int64_t channels, height, width;
  int64_t first_block, blocks_an_image;
  Walk walk;
};

template <class T>
struct Layers {
  Layer<T> layer[kMaxLayers];
  int count;
  int64_t blocks;
};

template <class T>
Side<T> side_of(const DiscrepancySide& side, const DiscrepancyLayer& layer, int64_t batch) {
  const int64_t extent =
      layer.channels == 0
          ? 0
          : 1 + (batch - 1) * side.batch_stride + (layer.channels - 1) * side.channel_stride +
                (layer.height - 1) * side.row_stride + (layer.width - 1) * side.column_stride;
  return {span_of_extent<T>(side.data, extent), side.batch_stride, side.channel_stride,
          side.row_stride, side.column_stride};
}

template <class T>
bool can_walk(const DiscrepancySide& side, const DiscrepancyLayer& layer, Walk walk) {
  if (side.data == nullptr) return true;
  const auto whole = [](int64_t stride) { return stride % kFour == 0; };
  const bool aligned = reinterpret_cast<uintptr_t>(side.data) % sizeof(Four<T>) == 0;
  if (walk == Walk::kRows) {
    return aligned && layer.height * layer.width % kFour == 0 && whole(side.batch_stride) &&
           whole(side.channel_stride) && (layer.width == 1 || side.column_stride == 1) &&
           (layer.height == 1 || side.row_stride == layer.width);
  }
  return aligned && side.channel_stride == 1 && whole(layer.channels) && whole(side.batch_stride) &&
         whole(side.row_stride) && whole(side.column_stride);
}

template <class T>
Walk walk_of(const DiscrepancyLayer& layer) {
  for (Walk walk : {Walk::kRows, Walk::kChannels}) {
    bool all = sizeof(T) < 8;  // float64 has a kernel of its own
    for (const DiscrepancySide* side :
         {&layer.features, &layer.reconstructed, &layer.grad_features, &layer.grad_reconstructed}) {
      all = all && can_walk<T>(*side, layer, walk);
    }
    if (all) return walk;
  }
  return Walk::kSingle;
}

// Layers first .. first + count; `start` is where their maps begin in the scratch.
template <class T>
Layers<T> layers_of(const DiscrepancyJob& job, int first, int count, int64_t start) {
  using M = typename Compute<T>::type;
  Layers<T> layers{};
  layers.count = count;
  for (int l = 0; l < count; ++l) {
    const DiscrepancyLayer& from = job.layers[first + l];
    Layer<T>& to = layers.layer[l];
    const int64_t positions = from.height * from.width;
    to.a = side_of<const T>(from.features, from, job.batch);
    to.b = side_of<const T>(from.reconstructed, from, job.batch);
    to.grad_a = side_of<T>(from.grad_features, from, job.batch);
    to.grad_b = side_of<T>(from.grad_reconstructed, from, job.batch);
    to.map = span_of_extent<M>(static_cast<M*>(job.scratch) + start, job.batch * positions);
    to.channels = from.channels;
    to.height = from.height;
    to.width = from.width;
    to.walk = walk_of<T>(from);
    const int64_t a_block = to.walk == Walk::kRows ? kMaxPositions : kWarpSize;
    to.first_block = layers.blocks;
    to.blocks_an_image = (positions + a_block - 1) / a_block;
    layers.blocks += job.batch * to.blocks_an_image;
    start += job.batch * positions;
  }
  return layers;
}

struct Sum {
  double a, b, difference;
};

template <class T>
__device__ __forceinline__ void add_pair(T a, T b, Sum& sum) {
  const double x = to_float(a), y = to_float(b), gap = x - y;
  sum.a += x * x;
  sum.b += y * y;
  sum.difference += gap * gap;
}

// Where a thread's positions begin in a side, without the channel.
template <class T>
__device__ __forceinline__ int64_t place_of(const Side<T>& side, int64_t image, int64_t y,
                                            int64_t x) {
  return image * side.batch_stride + y * side.row_stride + x * side.column_stride;
}

// Sums over channels first .. last of the thread's positions: four of them for kRows, else one.
template <class T>
__device__ __forceinline__ void add_channels(const Layer<T>& layer, int64_t at_a, int64_t at_b,
                                             int64_t first, int64_t last, Sum (&sum)[kFour]) {
  const Side<const T>&a = layer.a, &b = layer.b;
  if (layer.walk == Walk::kRows) {
#pragma unroll 4
    for (int64_t c = first; c < last; ++c) {
      const auto x = load_vector<Four<T>>(a.data, at_a + c * a.channel_stride);
      const auto y = load_vector<Four<T>>(b.data, at_b + c * b.channel_stride);
#pragma unroll
      for (int i = 0; i < kFour; ++i) add_pair(x.value[i], y.value[i], sum[i]);
    }
  } else if (layer.walk == Walk::kChannels) {
#pragma unroll 2
    for (int64_t c = first; c < last; c += kFour) {
      const auto x = load_vector<Four<T>>(a.data, at_a + c);
      const auto y = load_vector<Four<T>>(b.data, at_b + c);
#pragma unroll
      for (int i = 0; i < kFour; ++i) add_pair(x.value[i], y.value[i], sum[0]);
    }
  } else {
#pragma unroll 4
    for (int64_t c = first; c < last; ++c) {
      add_pair(a.data[at_a + c * a.channel_stride], b.data[at_b + c * b.channel_stride], sum[0]);
    }
  }
}

// What the gradient needs of a position.
struct Pair {
  double inverse_a, inverse_b, distance, upstream;
};

__device__ __forceinline__ double gradient_a(double x, double y, const Pair& pair) {
  return pair.upstream * pair.inverse_a *
         slope_a(x * pair.inverse_a, y * pair.inverse_b, pair.distance);
}

__device__ __forceinline__ double gradient_b(double x, double y, const Pair& pair) {
  return pair.upstream * pair.inverse_b *
         slope_b(x * pair.inverse_a, y * pair.inverse_b, pair.distance);
}

template <class T>
__device__ __forceinline__ T narrowed(double x) {
  return from_float<T>(typename Compute<T>::type(x));
}

// The gradient of channels first .. last of the thread's positions.
template <class T>
__device__ __forceinline__ void write_channels(const Layer<T>& layer, int64_t image, int64_t y,
                                               int64_t x, int64_t first, int64_t last,
                                               const Pair (&pair)[kFour]) {
  const int64_t at_a = place_of(layer.a, image, y, x), at_b = place_of(layer.b, image, y, x);
  const int64_t to_a = place_of(layer.grad_a, image, y, x);
  const int64_t to_b = place_of(layer.grad_b, image, y, x);
  const bool rows = layer.walk == Walk::kRows;
  if (rows || layer.walk == Walk::kChannels) {
    for (int64_t c = first; c < last; c += rows ? 1 : kFour) {
      const auto u = load_vector<Four<T>>(layer.a.data, at_a + c * layer.a.channel_stride);
      const auto v = load_vector<Four<T>>(layer.b.data, at_b + c * layer.b.channel_stride);
      Four<T> out_a, out_b;
#pragma unroll
      for (int i = 0; i < kFour; ++i) {
        const double from_a = to_float(u.value[i]), from_b = to_float(v.value[i]);
        const Pair own = rows ? pair[i] : pair[0];
        out_a.value[i] = narrowed<T>(gradient_a(from_a, from_b, own));
        out_b.value[i] = narrowed<T>(gradient_b(from_a, from_b, own));
      }
      if (layer.grad_a.data) {
        store_vector(layer.grad_a.data, to_a + c * layer.grad_a.channel_stride, out_a);
      }
      if (layer.grad_b.data) {
        store_vector(layer.grad_b.data, to_b + c * layer.grad_b.channel_stride, out_b);
      }
    }
    return;
  }
  for (int64_t c = first; c < last; ++c) {
    const double u = to_float(layer.a.data[at_a + c * layer.a.channel_stride]);
    const double v = to_float(layer.b.data[at_b + c * layer.b.channel_stride]);
    if (layer.grad_a.data) {
      layer.grad_a.data[to_a + c * layer.grad_a.channel_stride] =
          narrowed<T>(gradient_a(u, v, pair[0]));
    }
    if (layer.grad_b.data) {
      layer.grad_b.data[to_b + c * layer.grad_b.channel_stride] =
          narrowed<T>(gradient_b(u, v, pair[0]));
    }
  }
}

// Each position's distance into the map, or (kBackward) the gradient of what the map holds.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2)
    discrepancy_kernel(const __grid_constant__ Layers<T> layers) {
  using M = typename Compute<T>::type;
  MEDAD_SHARED(Sum, partial, kWarps * kMaxPositions);
  MEDAD_SHARED(Pair, pairs, kBackward ? kMaxPositions : 1);
  int l = layers.count - 1;
  while (layers.layer[l].first_block > int64_t(blockIdx.x)) --l;
  const Layer<T>& layer = layers.layer[l];
  const int64_t block = int64_t(blockIdx.x) - layer.first_block;
  const int64_t image = block / layer.blocks_an_image;
  const int64_t positions = layer.height * layer.width;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int each = layer.walk == Walk::kRows ? kFour : 1;  // positions of a thread
  const int64_t block_first = block % layer.blocks_an_image * (kWarpSize * each);
  const int64_t first = block_first + lane * each;
  const bool inside = first < positions;
  const int64_t y = first / layer.width, x = first % layer.width;
  // Channels of this warp, in fours: the same share whatever the walk.
  const int64_t share = (layer.channels + kWarps * kFour - 1) / (kWarps * kFour) * kFour;
  const int64_t from = share * warp;
  const int64_t to = from + share < layer.channels ? from + share : layer.channels;

  Sum sum[kFour] = {};
  if (inside) {
    add_channels(layer, place_of(layer.a, image, y, x), place_of(layer.b, image, y, x), from, to,
                 sum);
  }
#pragma unroll
  for (int i = 0; i < kFour; ++i) {
    if (i < each) partial[(warp * kFour + i) * kWarpSize + lane] = sum[i];
  }
  __syncthreads();
  const int position = int(threadIdx.x);
  if (position < kWarpSize * each && block_first + position < positions) {
    const int slot = position % each * kWarpSize + position / each;
    Sum total = {};
    for (int w = 0; w < kWarps; ++w) {
      const Sum part = partial[w * kMaxPositions + slot];
      total.a += part.a;
      total.b += part.b;
      total.difference += part.difference;
    }
    const int64_t at = image * positions + block_first + position;
    const double distance = distance_of(total.a, total.b, total.difference);
    if (kBackward) {
      pairs[position] = {1 / norm_of(total.a, total.b), 1 / norm_of(total.b, total.a), distance,
                         double(layer.map[at])};
    } else {
      layer.map[at] = M(distance);
    }
  }
  if (!kBackward) return;
  __syncthreads();
  if (!inside) return;
  Pair own[kFour] = {};
#pragma unroll
  for (int i = 0; i < kFour; ++i) {
    if (i < each) own[i] = pairs[lane * each + i];
  }
  write_channels(layer, image, y, x, from, to, own);
}

// Float64 has no wider type to sum in: a thread a position, with passes for the largest element,
// the norms, and the distance of the unit vectors.
template <bool kBackward>
__global__ void __launch_bounds__(kWarpSize)
    discrepancy_double_kernel(const __grid_constant__ Layers<double> layers) {
  int l = layers.count - 1;
  while (layers.layer[l].first_block > int64_t(blockIdx.x)) --l;
  const Layer<double>& layer = layers.layer[l];
  const int64_t block = int64_t(blockIdx.x) - layer.first_block;
  const int64_t image = block / layer.blocks_an_image;
  const int64_t positions = layer.height * layer.width;
  const int64_t position = block % layer.blocks_an_image * kWarpSize + threadIdx.x;
  if (position >= positions) return;
  const int64_t y = position / layer.width, x = position % layer.width;
  const Side<const double>&a = layer.a, &b = layer.b;
  const int64_t at_a = place_of(a, image, y, x), at_b = place_of(b, image, y, x);

  double largest_a = 0, largest_b = 0;
  for (int64_t c = 0; c < layer.channels; ++c) {
    const double u = std::abs(a.data[at_a + c * a.channel_stride]);
    const double v = std::abs(b.data[at_b + c * b.channel_stride]);
    largest_a = u > largest_a ? u : largest_a;
    largest_b = v > largest_b ? v : largest_b;
  }
  const double scale_a = power_of_two_below(largest_a), scale_b = power_of_two_below(largest_b);
  Sum sum = {};
  for (int64_t c = 0; c < layer.channels; ++c) {
    const double u = a.data[at_a + c * a.channel_stride] * scale_a;
    const double v = b.data[at_b + c * b.channel_stride] * scale_b;
    sum.a += u * u;
    sum.b += v * v;
  }
  const double norm_a = norm_of(sum.a, sum.b), norm_b = norm_of(sum.b, sum.a);
  for (int64_t c = 0; c < layer.channels; ++c) {
    const double gap = a.data[at_a + c * a.channel_stride] * scale_a / norm_a -
                       b.data[at_b + c * b.channel_stride] * scale_b / norm_b;
    sum.difference += gap * gap;
  }
  const double distance = settle(sum.a, sum.b, sum.difference / 2);
  const int64_t at = image * positions + position;
  if (!kBackward) {
    layer.map[at] = distance;
    return;
  }
  const double upstream = layer.map[at];
  const int64_t to_a = place_of(layer.grad_a, image, y, x);
  const int64_t to_b = place_of(layer.grad_b, image, y, x);
  for (int64_t c = 0; c < layer.channels; ++c) {
    const double u = a.data[at_a + c * a.channel_stride] * scale_a / norm_a;
    const double v = b.data[at_b + c * b.channel_stride] * scale_b / norm_b;
    if (layer.grad_a.data) {
      layer.grad_a.data[to_a + c * layer.grad_a.channel_stride] =
          upstream * slope_a(u, v, distance) / norm_a * scale_a;
    }
    if (layer.grad_b.data) {
      layer.grad_b.data[to_b + c * layer.grad_b.channel_stride] =
          upstream * slope_b(u, v, distance) / norm_b * scale_b;
    }
  }
}

template <class T, bool kBackward>
void launch_discrepancy(const Layers<T>& layers, void* stream) {
  const dim3 grid = grid_of(layers.blocks, "features");
  if constexpr (sizeof(T) == 8) {
    MEDAD_LAUNCH((discrepancy_double_kernel<kBackward>), grid, dim3(kWarpSize), 0, stream, layers);
  } else {
    MEDAD_LAUNCH((discrepancy_kernel<T, kBackward>), grid, dim3(kThreads), 0, stream, layers);
  }
}

}  // namespace
}  // namespace medad
