// Smoothed saliency on the GPU: all steps on a tile in shared memory.
//
// Bound by the minima and maxima of the median, some 120 a pixel: a Hopper's SM does 64 of them a
// clock, some 12 us for 64 images of 128x128, where the memory traffic (each input once, with the
// halo from L2) takes 4. Hence the columns of the windows are sorted once and shared, not by each
// pixel again, and the tile is as large as 48 KB of shared memory allow: the halo of 5 costs a
// third. Threads lie along the rows: shared memory is read without bank conflicts, global memory in
// whole lines.

#include "core/gpu.cuh"
#include "ops/smooth_saliency/smooth_saliency.h"

namespace medad {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32;  // of a tile
template <class R>
constexpr int kRows = sizeof(R) == 4 ? 32 : 16;

// The tile of each step: as wide and high as the next one's windows reach.
constexpr int kMedianColumns = kColumns + 2 * kGaussianReach;
template <class R>
constexpr int kMedianRows = kRows<R> + 2 * kGaussianReach;
constexpr int kInputColumns = kMedianColumns + 2 * kMedianReach;
template <class R>
constexpr int kInputRows = kMedianRows<R> + 2 * kMedianReach;

struct ScalarOrder {
  static __device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
  static __device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
  static __device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }
  static __device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
};

template <class T>
struct Side {
  Span<const T> data;
  int64_t batch_stride, channel_stride, row_stride;
};

template <class T>
struct Saliency {
  Side<T> gradient, image;
  Span<typename Compute<T>::type> out;
  int64_t channels, height, width;
  int64_t tiles_across, tiles_an_image;
};

template <class T>
Side<T> side_of(const SaliencyJob& job, const SaliencySide& side) {
  const int64_t extent = (job.batch - 1) * side.batch_stride +
                         (job.channels - 1) * side.channel_stride +
                         (job.height - 1) * side.row_stride + job.width;
  return {span_of_extent<const T>(side.data, extent), side.batch_stride, side.channel_stride,
          side.row_stride};
}

template <class T>
__device__ __forceinline__ typename Compute<T>::type masked_magnitude(const Saliency<T>& s,
                                                                      int64_t image, int64_t y,
                                                                      int64_t x) {
  using R = typename Compute<T>::type;
  const int64_t from = image * s.gradient.batch_stride + y * s.gradient.row_stride + x;
  const int64_t mask = image * s.image.batch_stride + y * s.image.row_stride + x;
  R largest = 0;
  for (int64_t c = 0; c < s.channels; ++c) {
    const R gradient = to_float(s.gradient.data[from + c * s.gradient.channel_stride]);
    const R pixel = to_float(s.image.data[mask + c * s.image.channel_stride]);
    const R masked = (gradient < 0 ? -gradient : gradient) * R(pixel != 0);
    largest = masked > largest || masked != masked ? masked : largest;
  }
  return largest;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    smooth_saliency_kernel(const __grid_constant__ Saliency<T> s) {
  using R = typename Compute<T>::type;
  constexpr int kInputs = kInputRows<R> * kInputColumns;
  constexpr int kRank = kMedianRows<R> * kInputColumns;  // from rank to rank of the sorted columns
  MEDAD_SHARED(R, first, kInputs);                       // a, then the median
  MEDAD_SHARED(R, second, kMedianSide * kRank);          // sorted columns, then smoothed rows
  const int64_t image = int64_t(blockIdx.x) / s.tiles_an_image;
  const int64_t tile = int64_t(blockIdx.x) % s.tiles_an_image;
  const int64_t top = tile / s.tiles_across * kRows<R>, left = tile % s.tiles_across * kColumns;

  for (int i = threadIdx.x; i < kInputs; i += kThreads) {
    const int64_t y = top + i / kInputColumns - (kGaussianReach + kMedianReach);
    const int64_t x = left + i % kInputColumns - (kGaussianReach + kMedianReach);
    first[i] = masked_magnitude(s, image, reflected(y, s.height), reflected(x, s.width));
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kRank; i += kThreads) {
    R column[kMedianSide];
    bool nan = false;
#pragma unroll
    for (int k = 0; k < kMedianSide; ++k) {
      column[k] = first[i + k * kInputColumns];
      nan = nan || column[k] != column[k];
    }
    sort_five<ScalarOrder>(column);
    // Minima and maxima lose NaN: the highest rank keeps it.
    if (nan) column[kMedianSide - 1] = R(NAN);
#pragma unroll
    for (int k = 0; k < kMedianSide; ++k) second[k * kRank + i] = column[k];
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kMedianRows<R> * kMedianColumns; i += kThreads) {
    const int row = i / kMedianColumns, across = i % kMedianColumns;
    const int64_t y = top + row - kGaussianReach, x = left + across - kGaussianReach;
    R median = 0;  // beyond the border
    if (y >= 0 && y < s.height && x >= 0 && x < s.width) {
      const int at = row * kInputColumns + across;
      median = median_of_columns<ScalarOrder, R>(
          [&](int rank, int column) { return second[rank * kRank + at + column]; });
      bool nan = false;
#pragma unroll
      for (int column = 0; column < kMedianSide; ++column) {
        const R highest = second[(kMedianSide - 1) * kRank + at + column];
        nan = nan || highest != highest;
      }
      if (nan) median = R(NAN);
    }
    first[i] = median;
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kMedianRows<R> * kColumns; i += kThreads) {
    const int at = i / kColumns * kMedianColumns + i % kColumns;
    R sum = 0;
#pragma unroll
    for (int k = 0; k < kGaussianSide; ++k) {
      sum += R(gaussian_tap(k - kGaussianReach)) * first[at + k];
    }
    second[i] = sum;
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kRows<R> * kColumns; i += kThreads) {
    const int64_t y = top + i / kColumns, x = left + i % kColumns;
    if (y >= s.height || x >= s.width) continue;
    R sum = 0;
#pragma unroll
    for (int k = 0; k < kGaussianSide; ++k) {
      sum += R(gaussian_tap(k - kGaussianReach)) * second[i + k * kColumns];
    }
    s.out[(image * s.height + y) * s.width + x] = sum;
  }
}

template <class T>
void launch_kernel(const SaliencyJob& job, void* stream) {
  using R = typename Compute<T>::type;
  Saliency<T> s{};
  s.gradient = side_of<T>(job, job.gradient);
  s.image = side_of<T>(job, job.image);
  s.out = span_of_extent<R>(job.out, job.batch * job.height * job.width);
  s.channels = job.channels;
  s.height = job.height;
  s.width = job.width;
  s.tiles_across = (job.width + kColumns - 1) / kColumns;
  s.tiles_an_image = s.tiles_across * ((job.height + kRows<R> - 1) / kRows<R>);
  MEDAD_LAUNCH(smooth_saliency_kernel<T>, grid_of(job.batch * s.tiles_an_image, "gradient"),
               dim3(kThreads), 0, stream, s);
}

}  // namespace

void smooth_saliency_cuda(const SaliencyJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype,
                     [&](auto zero) { launch_kernel<decltype(zero)>(job, launch.stream); });
}

}  // namespace medad
