// One tile of SSIM and its gradient, by one block. Included by gpu.cu only.
#pragma once

#include "core/gpu.cuh"
#include "ops/ssim/ssim.h"

namespace medad {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLongRun = 8;   // places a thread blurs at once: (8 + 10) / 8 reads a place
constexpr int kShortRun = 4;  // likewise for the adjoint, which has fewer places
constexpr int kMaxRadius = 64;

template <class T>
struct Images {
  Span<T> data;
  int64_t batch, channel, row, column;
};

// T: of the images; C: of the arithmetic. The map is float32 unless the images are float64.
template <class T, class C>
struct Arguments {
  Images<const T> x, y;
  Images<T> grad_x, grad_y;
  Span<typename Compute<T>::type> map;
  Span<const typename Compute<T>::type> upstream;
  Span<double> sums;  // of each tile; not finite where C must be wider
  int64_t channels, height, width, map_rows, map_columns;
  int64_t tiles_across, tiles_down;
  int radius, padding, tile;
  int fields;  // of the derivatives: 0, 3 for a gradient to one side, 4 for both
  bool to_x, has_map, has_upstream;
  C c1, c2, weight;
  C window[kMaxRadius + 1];
};

// What a tile reads and forms, in places of the padded image. Derivatives are needed `halo` places
// above and left of what the tile answers for.
struct Extent {
  int tile, radius, halo;
  MEDAD_HD int map() const { return tile + halo; }
  MEDAD_HD int input() const { return map() + 2 * radius; }
  // Steps between rows in shared memory: odd where the lanes of a warp take different rows.
  MEDAD_HD int blurred_step() const { return input() | 1; }
  MEDAD_HD int partials_step() const { return map() | 1; }
  MEDAD_HD int spread_step() const { return tile | 1; }
  // Elements of the two areas: inputs, then derivatives (or values); moments blurred along the
  // columns, then derivatives blurred along the rows.
  MEDAD_HD int first_area(int fields) const {
    const int inputs = 2 * input() * input();
    const int partials = (fields > 0 ? fields : 1) * map() * partials_step();
    return inputs > partials ? inputs : partials;
  }
  MEDAD_HD int second_area() const { return 4 * map() * blurred_step(); }
};

// Derivatives are formed up to twice the window away from the places that need them.
MEDAD_HD Extent extent_of(int tile, int radius, bool gradient) {
  return {tile, radius, gradient ? 2 * radius : 0};
}

// Whether a kernel forms the gradient; as the arguments ask where its speed does not matter, which
// is a kernel less to compile for each type.
enum class Gradient { kNo, kYes, kAsAsked };

template <Gradient kGradient, class T, class C>
__device__ __forceinline__ bool wants_gradient(const Arguments<T, C>& args) {
  return kGradient == Gradient::kAsAsked ? args.fields > 0 : kGradient == Gradient::kYes;
}

template <int kRadius, class T, class C>
__device__ __forceinline__ int radius_of(const Arguments<T, C>& args) {
  return kRadius > 0 ? kRadius : args.radius;
}

// sum[f][o] += the window over read(o) .. read(o + 2 radius).
template <int kRadius, int kFields, int kRun, class T, class C, class Read>
__device__ __forceinline__ void weigh(const Arguments<T, C>& args, C (&sum)[kFields][kRun],
                                      Read read) {
  const auto add = [&](int i) {
    C value[kFields];
    read(i, value);
    const int radius = radius_of<kRadius>(args);
#pragma unroll
    for (int o = 0; o < kRun; ++o) {
      const int k = i - o - radius;
      if (k < -radius || k > radius) continue;
      const C weight = args.window[k < 0 ? -k : k];
#pragma unroll
      for (int f = 0; f < kFields; ++f) sum[f][o] += weight * value[f];
    }
  };
  if constexpr (kRadius > 0) {
#pragma unroll
    for (int i = 0; i < 2 * kRadius + kRun; ++i) add(i);
  } else {
    for (int i = 0; i < 2 * args.radius + kRun; ++i) add(i);
  }
}

template <class T, class C>
__device__ __forceinline__ bool pixel(const Images<const T>& images, const Arguments<T, C>& args,
                                      int64_t plane, int64_t row, int64_t column, C& value) {
  if (row < 0 || row >= args.height || column < 0 || column >= args.width) return false;
  value = C(to_float(
      images.data[plane / args.channels * images.batch + plane % args.channels * images.channel +
                  row * images.row + column * images.column]));
  return true;
}

// As centre_of in cpu_strip.h, of the tile: each lane has a sample, and finds its rank.
template <class T, class C>
__device__ C centre_of(const Arguments<T, C>& args, int64_t plane, int64_t row, int64_t column,
                       int tile) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t r = row + (2 * (lane / 8) + 1) * tile / 8;
  const int64_t c = column + (2 * (lane % 8) + 1) * tile / 16;
  C x = 0, y = 0;
  pixel(args.x, args, plane, r - args.padding, c - args.padding, x);
  pixel(args.y, args, plane, r - args.padding, c - args.padding, y);
  const C limit = C(0x1p100f);
  const bool usable = x + y > -limit && x + y < limit && r < args.map_rows + 2 * args.radius &&
                      c < args.map_columns + 2 * args.radius;
  const C value = usable ? x + y : limit;
  int rank = 0;
  for (int other = 0; other < kWarpSize; ++other) {
    const C theirs = __shfl_sync(~0u, value, other);
    rank += theirs < value || (theirs == value && other < lane);
  }
  const int count = __popc(__ballot_sync(~0u, usable));
  if (count == 0) return 0;
  const unsigned low = __ballot_sync(~0u, rank == count / 10);
  const unsigned high = __ballot_sync(~0u, rank == count - 1 - count / 10);
  const C centre = (__shfl_sync(~0u, value, __ffs(int(low)) - 1) +
                    __shfl_sync(~0u, value, __ffs(int(high)) - 1)) /
                   2;
  return C(float(centre));
}

// The sum of the tile's values, in every thread's share of it. All threads of the block call this;
// shared memory is free again when it returns. kRadius and kTile are 0 where only the arguments
// know them.
template <int kRadius, int kTile, Gradient kGradient, class T, class C>
__device__ double work_on_tile(const Arguments<T, C>& args, int64_t plane, int64_t row,
                               int64_t column, int tile_or_less, Span<C> first, Span<C> second) {
  constexpr bool kWide = sizeof(C) == 8;
  const int radius = radius_of<kRadius>(args);
  const int tile = kTile > 0 ? kTile : tile_or_less;
  const bool gradient = wants_gradient<kGradient>(args);
  const Extent extent = extent_of(tile, radius, gradient);
  const int inputs = extent.input(), maps = extent.map(), thread = threadIdx.x;
  const int64_t top = row - extent.halo, left = column - extent.halo;  // of the places read
  const C centre = centre_of(args, plane, row, column, tile), half = centre / 2;

  for (int item = thread; item < inputs * inputs; item += kThreads) {
    const int64_t r = top + item / inputs - args.padding, c = left + item % inputs - args.padding;
    C x = 0, y = 0;
    pixel(args.x, args, plane, r, c, x);
    pixel(args.y, args, plane, r, c, y);
    first[item] = (x - half) + (y - half);
    first[inputs * inputs + item] = x - y;
  }
  __syncthreads();

  const int blurred_step = extent.blurred_step(), blurred = maps * blurred_step;
  for (int item = thread; item < (maps + kLongRun - 1) / kLongRun * inputs; item += kThreads) {
    const int c = item % inputs, r = item / inputs * kLongRun;
    C sum[4][kLongRun] = {};
    weigh<kRadius>(args, sum, [&](int i, C(&value)[4]) {
      const int at = min(r + i, inputs - 1) * inputs + c;
      value[0] = first[at];
      value[1] = first[inputs * inputs + at];
      value[2] = value[0] * value[0];
      value[3] = value[1] * value[1];
    });
#pragma unroll
    for (int o = 0; o < kLongRun; ++o) {
      if (r + o >= maps) break;
#pragma unroll
      for (int f = 0; f < 4; ++f) second[f * blurred + (r + o) * blurred_step + c] = sum[f][o];
    }
  }
  __syncthreads();

  const int partials_step = extent.partials_step(), partials = maps * partials_step;
  double total = 0;
  C range = 0;
  for (int item = thread; item < (maps + kLongRun - 1) / kLongRun * maps; item += kThreads) {
    const int r = item % maps, c = item / maps * kLongRun;
    C sum[4][kLongRun] = {};
    weigh<kRadius>(args, sum, [&](int i, C(&value)[4]) {
      const int at = r * blurred_step + min(c + i, inputs - 1);
#pragma unroll
      for (int f = 0; f < 4; ++f) value[f] = second[f * blurred + at];
    });
    const int64_t map_row = top + r;
    C values = 0;
#pragma unroll
    for (int o = 0; o < kLongRun; ++o) {
      if (c + o >= maps) break;
      const int64_t map_column = left + c + o;
      const bool inside = map_row >= 0 && map_row < args.map_rows && map_column >= 0 &&
                          map_column < args.map_columns;
      const SsimMoments<C> m{sum[0][o], sum[1][o], sum[2][o], sum[3][o]};
      const SsimValue<C> v = ssim_value<kWide>(m, centre, args.c1, args.c2);
      if (inside) range += v.product;
      if (inside && r >= extent.halo && c + o >= extent.halo) values += v.value;
      const int at = r * partials_step + c + o;
      if (!gradient) {
        if (args.has_map) first[at] = v.value;
        continue;
      }
      C up = args.weight;
      if (args.has_upstream && inside) {
        up = C(args.upstream[(plane * args.map_rows + map_row) * args.map_columns + map_column]);
      }
      const SsimPartials<C> p = ssim_partials(m, v, centre);
      const C both = args.fields == 4 ? p.sum
                     : args.to_x      ? p.sum + p.difference
                                      : p.sum - p.difference;
      first[at] = inside ? both * up : C(0);
      first[partials + at] = inside ? p.sum_square * up : C(0);
      first[2 * partials + at] = inside ? p.difference_square * up : C(0);
      if (args.fields == 4) first[3 * partials + at] = inside ? p.difference * up : C(0);
    }
    total += double(values);
  }
  // NaN where a moment left the range of C.
  if (!kWide) total += double(range - range);
  __syncthreads();

  if (!gradient) {
    if (!args.has_map) return total;
    for (int item = thread; item < tile * tile; item += kThreads) {
      const int64_t r = row + item / tile, c = column + item % tile;
      if (r >= args.map_rows || c >= args.map_columns) continue;
      args.map[(plane * args.map_rows + r) * args.map_columns + c] =
          typename Compute<T>::type(first[item / tile * partials_step + item % tile]);
    }
    __syncthreads();
    return total;
  }

  const int spread_step = extent.spread_step(), spread = maps * spread_step;
  const int runs = (tile + kShortRun - 1) / kShortRun;
  for (int item = thread; item < args.fields * runs * maps; item += kThreads) {
    const int r = item % maps, c = item / maps % runs * kShortRun, field = item / maps / runs;
    C sum[1][kShortRun] = {};
    weigh<kRadius>(args, sum, [&](int i, C(&value)[1]) {
      value[0] = first[field * partials + r * partials_step + min(c + i, maps - 1)];
    });
#pragma unroll
    for (int o = 0; o < kShortRun; ++o) {
      if (c + o < tile) second[field * spread + r * spread_step + c + o] = sum[0][o];
    }
  }
  __syncthreads();

  for (int item = thread; item < runs * tile; item += kThreads) {
    const int c = item % tile, r = item / tile * kShortRun;
    C sum[4][kShortRun] = {};
    weigh<kRadius>(args, sum, [&](int i, C(&value)[4]) {
      const int at = min(r + i, maps - 1) * spread_step + c;
#pragma unroll
      for (int f = 0; f < 3; ++f) value[f] = second[f * spread + at];
      value[3] = args.fields == 4 ? second[3 * spread + at] : C(0);
    });
#pragma unroll
    for (int o = 0; o < kShortRun; ++o) {
      const int64_t image_row = row + r + o - args.padding,
                    image_column = column + c - args.padding;
      C x = 0, y = 0;
      if (r + o >= tile || !pixel(args.x, args, plane, image_row, image_column, x)) continue;
      pixel(args.y, args, plane, image_row, image_column, y);
      const C by_sum = sum[0][o] + ((x - half) + (y - half)) * sum[1][o];
      const C by_difference = sum[3][o] + (x - y) * sum[2][o];
      const auto write = [&](const Images<T>& to, C value) {
        T& place = to.data[plane / args.channels * to.batch + plane % args.channels * to.channel +
                           image_row * to.row + image_column * to.column];
        if constexpr (sizeof(T) == 8) {
          place = double(value);
        } else {
          place = from_float<T>(float(value));
        }
      };
      if (args.fields == 4 || args.to_x) write(args.grad_x, by_sum + by_difference);
      if (args.fields == 4 || !args.to_x) write(args.grad_y, by_sum - by_difference);
    }
  }
  __syncthreads();
  return total;
}

// The block's sum of `share`, in thread 0.
__device__ __forceinline__ double block_sum(double share) {
  MEDAD_SHARED(double, of_warp, kWarps);
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) share += __shfl_down_sync(~0u, share, step);
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = share;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += of_warp[warp];
  __syncthreads();
  return sum;
}

// Where tile number `tile` of all planes lies.
struct TilePlace {
  int64_t plane, row, column;
};

template <class T, class C>
__device__ __forceinline__ TilePlace place_of(const Arguments<T, C>& args, int64_t tile, int edge) {
  const int64_t a_plane = args.tiles_across * args.tiles_down, in_plane = tile % a_plane;
  return {tile / a_plane, in_plane / args.tiles_across * edge, in_plane % args.tiles_across * edge};
}

// Blocks a multiprocessor: what shared memory allows on Hopper, for the kernels that must be quick.
// Left to itself ptxas aims at more, and spills.
template <Gradient kGradient, class C>
constexpr int kBlocksTogether = kGradient != Gradient::kAsAsked ? 3
                                : sizeof(C) == 4                ? 2
                                                                : 1;

template <class T, class C, int kRadius, int kTile, Gradient kGradient>
__global__ void __launch_bounds__(kThreads, kBlocksTogether<kGradient, C>)
    tile_kernel(const __grid_constant__ Arguments<T, C> args) {
  MEDAD_DYNAMIC_SHARED(C, shared);
  const int tile = kTile > 0 ? kTile : args.tile;
  const Extent extent = extent_of(tile, radius_of<kRadius>(args), wants_gradient<kGradient>(args));
  const TilePlace place = place_of(args, blockIdx.x, tile);
  const double share =
      work_on_tile<kRadius, kTile, kGradient>(args, place.plane, place.row, place.column, tile,
                                              shared, shared + extent.first_area(args.fields));
  const double sum = block_sum(share);
  if (threadIdx.x == 0) args.sums[blockIdx.x] = sum;
}

// Does those tiles again, in float64, whose moments did not fit in float32; args.tile is the edge
// of the smaller tiles that `edge` is made of.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    wide_kernel(const __grid_constant__ Arguments<T, double> args, int edge) {
  MEDAD_DYNAMIC_SHARED(double, shared);
  const double known = args.sums[blockIdx.x];
  if (known - known == 0) return;
  const Extent extent = extent_of(args.tile, args.radius, args.fields > 0);
  const TilePlace place = place_of(args, blockIdx.x, edge);
  double share = 0;
  for (int row = 0; row < edge; row += args.tile) {
    for (int column = 0; column < edge; column += args.tile) {
      share += work_on_tile<0, 0, Gradient::kAsAsked>(args, place.plane, place.row + row,
                                                      place.column + column, args.tile, shared,
                                                      shared + extent.first_area(args.fields));
    }
  }
  const double sum = block_sum(share);
  if (threadIdx.x == 0) args.sums[blockIdx.x] = sum;
}

template <class M>
__global__ void __launch_bounds__(kThreads)
    total_kernel(Argument<const double> sums, int64_t count, double scale, Argument<M> total) {
  double share = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) share += sums[i];
  const double sum = block_sum(share);
  if (threadIdx.x == 0) total[0] = M(sum * scale);
}

}  // namespace
}  // namespace medad
