// SSIM and its gradient on the GPU: one kernel for both, one for its rare exceptions, one to add
// up.
//
// Bound by multiply-adds and reads of shared memory, about 2 to 1: 14 blurs of 11 taps a pixel,
// where global memory sees each image twice and the gradient once. So a block keeps a tile of 32 x
// 32 in shared memory from the images to the gradient, forming the derivatives in a halo of 10
// again (1.7 times the places) rather than storing three maps for a second kernel to read; a thread
// blurs 8 neighbouring places at once, so that a number read is used 5 times; and lanes lie across
// the direction of the blur, rows with odd steps, so that no two meet in a bank. 57 KB and 256
// threads: three blocks a Hopper multiprocessor, eight tiles each at 16 x 256 x 256. No atomics:
// sums of tiles are added in one order. Not tuned on a device yet.

#include "ops/ssim/ssim.h"
#include "ops/ssim/tile.cuh"

namespace medad {
namespace {

constexpr int kRadius = 5;  // of the usual window, which has kernels of its own in float32
constexpr int kSmallestTile = 8;
constexpr int kStaticBytes = 256;  // more than block_sum has

template <class C>
constexpr int kLargestTile = sizeof(C) == 8 ? 16 : 32;

template <class T>
Images<T> images_of(const SsimImages& images, const SsimJob& job) {
  const int64_t* s = images.strides;
  const int64_t extent = 1 + (job.batch - 1) * s[0] + (job.channels - 1) * s[1] +
                         (job.height - 1) * s[2] + (job.width - 1) * s[3];
  return {span_of_extent<T>(images.data, extent), s[0], s[1], s[2], s[3]};
}

// Of the derivatives: 3 for a gradient to one side, 4 for both.
int fields_of(const SsimJob& job) {
  const int sides = int(job.grad_x.data != nullptr) + int(job.grad_y.data != nullptr);
  return sides == 0 ? 0 : sides + 2;
}

template <class T, class C>
Arguments<T, C> arguments_of(const SsimJob& job, int tile, int edge) {
  using M = typename Compute<T>::type;
  Arguments<T, C> args{};
  args.x = images_of<const T>(job.x, job);
  args.y = images_of<const T>(job.y, job);
  args.grad_x = images_of<T>(job.grad_x, job);
  args.grad_y = images_of<T>(job.grad_y, job);
  const int64_t places = job.batch * job.channels * job.map_rows() * job.map_columns();
  args.map = span_of_extent<M>(job.map, places);
  args.upstream = span_of_extent<const M>(job.upstream, places);
  args.sums = span_of_extent<double>(job.sums, job.sum_count);
  args.channels = job.channels;
  args.height = job.height;
  args.width = job.width;
  args.map_rows = job.map_rows();
  args.map_columns = job.map_columns();
  args.tiles_across = (job.columns() + edge - 1) / edge;
  args.tiles_down = (job.rows() + edge - 1) / edge;
  args.radius = int(job.radius);
  args.padding = int(job.padding);
  args.tile = tile;
  args.to_x = job.grad_x.data != nullptr;
  args.fields = fields_of(job);
  args.has_map = job.map != nullptr;
  args.has_upstream = job.upstream != nullptr;
  args.c1 = C(job.c1);
  args.c2 = C(job.c2);
  args.weight = C(job.weight);
  for (int64_t k = 0; k <= job.radius; ++k) args.window[k] = C(job.window[k]);
  return args;
}

template <class C>
int64_t shared_bytes(int tile, int64_t radius, int fields) {
  const Extent extent = extent_of(tile, int(radius), fields > 0);
  return int64_t(sizeof(C)) * (extent.first_area(fields) + extent.second_area());
}

// The largest tile that shared memory holds.
template <class C>
int tile_of(int64_t radius, int fields, int64_t limit) {
  int tile = kLargestTile<C>;
  while (tile > kSmallestTile && shared_bytes<C>(tile, radius, fields) > limit) tile /= 2;
  MEDAD_CHECK(shared_bytes<C>(tile, radius, fields) <= limit,
              "window_size: " << 2 * radius + 1 << " is too large for the memory of this GPU");
  return tile;
}

template <class Kernel, class... Arguments>
void launch(Kernel ssim_kernel, int64_t blocks, int64_t bytes, const Launch& where,
            const Arguments&... arguments) {
  allow_shared(ssim_kernel, bytes);
  MEDAD_LAUNCH(ssim_kernel, grid_of(blocks, "x"), dim3(kThreads), bytes, where.stream,
               arguments...);
}

template <class T, class C>
int launch_tiles(const SsimJob& job, int64_t limit, int64_t& tiles, const Launch& where) {
  const int fields = fields_of(job);
  const int tile = tile_of<C>(job.radius, fields, limit);
  const Arguments<T, C> args = arguments_of<T, C>(job, tile, tile);
  tiles = job.batch * job.channels * args.tiles_across * args.tiles_down;
  MEDAD_CHECK(job.sum_count >= tiles, "scratch: a number for each tile expected");
  if (sizeof(C) == 4 && job.wide) {  // nothing fits: NaN, for wide_kernel to take all
    cuda_check(cudaMemsetAsync(job.sums, 0xff, std::size_t(tiles) * sizeof(double),
                               static_cast<cudaStream_t>(where.stream)),
               "ssim scratch");
    return tile;
  }
  const int64_t bytes = shared_bytes<C>(tile, job.radius, fields);
  if constexpr (sizeof(C) == 4) {
    constexpr int kTile = kLargestTile<C>;
    if (job.radius == kRadius && tile == kTile) {
      if (fields > 0) {
        launch(tile_kernel<T, C, kRadius, kTile, Gradient::kYes>, tiles, bytes, where, args);
      } else {
        launch(tile_kernel<T, C, kRadius, kTile, Gradient::kNo>, tiles, bytes, where, args);
      }
      return tile;
    }
  }
  launch(tile_kernel<T, C, 0, 0, Gradient::kAsAsked>, tiles, bytes, where, args);
  return tile;
}

template <class T>
void launch_wide(const SsimJob& job, int64_t limit, int64_t tiles, int edge, const Launch& where) {
  const int fields = fields_of(job);
  const int fitting = tile_of<double>(job.radius, fields, limit);
  const int tile = fitting < edge ? fitting : edge;
  const Arguments<T, double> args = arguments_of<T, double>(job, tile, edge);
  const int64_t bytes = shared_bytes<double>(tile, job.radius, fields);
  launch(wide_kernel<T>, tiles, bytes, where, args, edge);
}

template <class T>
void run(const SsimJob& job, const Launch& where) {
  using M = typename Compute<T>::type;
  const int limit = shared_limit(where.device) - kStaticBytes;
  int64_t tiles = 0;
  if (job.batch * job.channels > 0) {
    const int edge = launch_tiles<T, M>(job, limit, tiles, where);
    if constexpr (sizeof(M) == 4) launch_wide<T>(job, limit, tiles, edge, where);
  }
  if (job.total == nullptr) return;
  launch(total_kernel<M>, 1, 0, where, span_of_extent<const double>(job.sums, job.sum_count), tiles,
         job.scale, span_of_extent<M>(job.total, 1));
}

}  // namespace

void ssim_cuda(const SsimJob& job, const Launch& launch) {
  MEDAD_CHECK(job.radius <= kMaxRadius,
              "window_size: at most " << 2 * kMaxRadius + 1 << " expected on the GPU");
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype, [&](auto zero) { run<decltype(zero)>(job, launch); });
}

}  // namespace medad
