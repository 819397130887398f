// NT-Xent on the GPU: bound by the multiplications, 6 N N D on the tensor cores.
//
// units_kernel divides rows by their lengths. sums_kernel: a block takes 32 rows (256 blocks at
// N = 8192: one wave of an H100, two blocks a multiprocessor) and walks over all others in tiles,
// with a running maximum and sum per row. gradient_kernel walks once more: with both rows' sums
// known, one pass gives the whole row of (E + E^T) u, so that no block adds to another's rows. The
// symmetry of s is used in that, but not to halve the products: tiles below the diagonal would
// have to be added across blocks, in an order that is not one. No N x N matrix reaches global
// memory; each number is written by one thread in one fixed order. Below some thousand rows the
// grid does not fill the device, and launches (five with a gradient) count for more.

#include <cmath>

#include "core/row_tiles.cuh"
#include "ops/nt_xent_loss/nt_xent_loss.h"

namespace medad {
namespace {

using namespace row_tiles;

constexpr int kRowWarps = kThreads / 32;  // rows that a block normalises at once
constexpr int64_t kMaxBlocks = 1 << 16;

template <class C>
struct Rows {
  Span<C> values;  // (kNtXentRowValues, rows)
  int64_t pairs, rows, depth;
  C inverse_temperature;

  __device__ __forceinline__ C& at(NtXentRowValue value, int64_t row) const {
    return values[int64_t(value) * rows + row];
  }
  __device__ __forceinline__ int64_t partner(int64_t row) const {
    return row < pairs ? row + pairs : row - pairs;
  }
};

// By way of z / largest, which neither overflows nor underflows.
template <class T, class C>
__global__ void __launch_bounds__(kThreads)
    units_kernel(Argument<const T> z1, Argument<const T> z2, Argument<C> units, Rows<C> all) {
  const int lane = threadIdx.x % 32;
  for (int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32; row < all.rows;
       row += int64_t(gridDim.x) * kRowWarps) {
    const bool second = row >= all.pairs;
    const Span<const T> z = (second ? z2 : z1) + (second ? row - all.pairs : row) * all.depth;
    const Span<C> unit = units + row * all.depth;
    C largest = 0;
    for (int64_t d = lane; d < all.depth; d += 32) {
      const C v = std::fabs(C(to_float(z[d])));
      largest = v > largest ? v : largest;
    }
    largest = across_row<C, 32>(largest, larger_of<C>);
    if (largest == 0) largest = 1;
    C square = 0;
    for (int64_t d = lane; d < all.depth; d += 32) {
      const C v = C(to_float(z[d])) / largest;
      square += v * v;
    }
    square = across_row<C, 32>(square, sum_of<C>);
    const C root = square == 0 ? C(1) : std::sqrt(square);
    for (int64_t d = lane; d < all.depth; d += 32) unit[d] = C(to_float(z[d])) / largest / root;
    if (lane == 0) {
      all.at(kLargest, row) = largest;
      all.at(kRoot, row) = root;
    }
  }
}

template <Precision kPrecision, class C>
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(Argument<const C> units, Rows<C> all) {
  MEDAD_DYNAMIC_SHARED(C, staged);
  constexpr int kStep = kTileColumns<C> + 4;
  const Span<C> tile = staged + kStagedElements<C>;
  const int64_t first = int64_t(blockIdx.x) * kRows, depth = all.depth;
  const int64_t rows = all.rows - first < kRows ? all.rows - first : kRows;
  const int my_row = threadIdx.x / kRowThreads, my_part = threadIdx.x % kRowThreads;
  const int64_t row = first + my_row, partner = all.partner(row);

  RunningSoftmax<C> softmax;
  for (int64_t column = 0; column < all.rows; column += kTileColumns<C>) {
    const int64_t left = all.rows - column;
    const int64_t columns = left < kTileColumns<C> ? left : kTileColumns<C>;
    multiply_rows_by_rows<kPrecision, true, C, C>(Span<const C>(units + first * depth), rows,
                                                  Span<const C>(units + column * depth), columns,
                                                  depth, staged, tile, kStep);
    for (int c = my_part; c < columns; c += kRowThreads) {
      const int64_t other = column + c;
      if (other == row) continue;
      softmax.add(tile[my_row * kStep + c], other == partner, all.inverse_temperature);
    }
  }
  softmax.finish(all.inverse_temperature, false, C(0));
  if (my_row >= rows || my_part != 0) return;
  const C distance = (softmax.positive - softmax.top) * all.inverse_temperature;
  const C sum = std::exp(distance) + softmax.others;
  all.at(kTop, row) = softmax.top;
  all.at(kOthers, row) = softmax.others;
  all.at(kWeight, row) = all.inverse_temperature / sum / C(all.rows);
  all.at(kRowLoss, row) = nt_xent_row_loss(softmax.others, distance);
}

template <class C>
__global__ void __launch_bounds__(kThreads) loss_kernel(Rows<C> all, Argument<C> loss) {
  MEDAD_SHARED(double, parts, kThreads);
  double sum = 0;
  for (int64_t row = threadIdx.x; row < all.rows; row += kThreads) {
    sum += double(all.at(kRowLoss, row));
  }
  parts[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) loss[0] = C(parts[0] / double(all.rows));
}

// sums = (E + E^T) u, a block of rows at a time.
template <Precision kPrecision, class C>
__global__ void __launch_bounds__(kThreads, 2)
    gradient_kernel(Argument<const C> units, Rows<C> all, Argument<C> sums) {
  MEDAD_DYNAMIC_SHARED(C, staged);
  constexpr int kStep = kTileColumns<C> + 4;
  const Span<C> tile = staged + kStagedElements<C>;
  const int64_t first = int64_t(blockIdx.x) * kRows, depth = all.depth;
  const int64_t rows = all.rows - first < kRows ? all.rows - first : kRows;
  const int my_row = threadIdx.x / kRowThreads, my_part = threadIdx.x % kRowThreads;
  const int64_t row = first + my_row;

  for (int64_t d = 0; d < depth; d += kWidth<C>) {
    Sum<C> gradient = {};
    for (int64_t column = 0; column < all.rows; column += kTileColumns<C>) {
      const int64_t left = all.rows - column;
      const int64_t columns = left < kTileColumns<C> ? left : kTileColumns<C>;
      const Span<const C> others = Span<const C>(units + column * depth);
      multiply_rows_by_rows<kPrecision, false, C, C>(Span<const C>(units + first * depth), rows,
                                                     others, columns, depth, staged, tile, kStep);
      for (int c = my_part; c < kTileColumns<C>; c += kRowThreads) {
        C& g = tile[my_row * kStep + c];
        const int64_t other = column + c;
        if (my_row >= rows || c >= columns || other == row) {
          g = 0;
        } else if (other == all.partner(row)) {
          g = -(all.at(kOthers, row) * all.at(kWeight, row) +
                all.at(kOthers, other) * all.at(kWeight, other));
        } else {
          const C s = g;
          g = std::exp((s - all.at(kTop, row)) * all.inverse_temperature) * all.at(kWeight, row);
          g += std::exp((s - all.at(kTop, other)) * all.inverse_temperature) *
               all.at(kWeight, other);
        }
      }
      multiply_tile_by_rows<kPrecision, C, C>(gradient, Span<const C>(tile), kStep, others, columns,
                                              depth, d, staged);
    }
    write_sum<C, C>(gradient, sums + first * depth, rows, depth, d);
  }
}

// dz from du.
template <class T, class C>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Argument<const C> units, Argument<const C> sums, Rows<C> all,
                  Argument<T> gradient) {
  const int lane = threadIdx.x % 32;
  for (int64_t row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32; row < all.rows;
       row += int64_t(gridDim.x) * kRowWarps) {
    const Span<const C> unit = units + row * all.depth, sum = sums + row * all.depth;
    const Span<T> out = gradient + row * all.depth;
    const C root = all.at(kRoot, row), largest = all.at(kLargest, row);
    C along = 0;
    for (int64_t d = lane; d < all.depth; d += 32) along += unit[d] * sum[d];
    along = across_row<C, 32>(along, sum_of<C>);
#pragma unroll 1
    for (int64_t d = lane; d < all.depth; d += 32) {
      out[d] = from_float<T>((sum[d] - unit[d] * along) / root / largest);
    }
  }
}

template <Precision kPrecision, class T, class C>
void launch(const NtXentJob& job, void* stream) {
  const int64_t pairs = job.pairs, rows = 2 * pairs, elements = rows * job.depth;
  const auto z1 = span_of_extent<const T>(job.z1, elements / 2);
  const auto z2 = span_of_extent<const T>(job.z2, elements / 2);
  const auto units = span_of_extent<C>(job.units, elements);
  const auto sums = span_of_extent<C>(job.sums, elements);
  const Rows<C> all{span_of_extent<C>(job.rows, kNtXentRowValues * rows), pairs, rows, job.depth,
                    C(1 / job.temperature)};
  const auto blocks_for = [](int64_t count, int64_t each) {
    const int64_t blocks = (count + each - 1) / each;
    return dim3(unsigned(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  };
  const dim3 row_blocks = grid_of((rows + kRows - 1) / kRows, "z1");
  const int64_t bytes = shared_elements<C>(1) * int64_t(sizeof(C));

  if (rows > 0) {
    MEDAD_LAUNCH((units_kernel<T, C>), blocks_for(rows, kRowWarps), dim3(kThreads), 0, stream, z1,
                 z2, units, all);
    allow_shared(sums_kernel<kPrecision, C>, bytes);
    MEDAD_LAUNCH((sums_kernel<kPrecision, C>), row_blocks, dim3(kThreads), std::size_t(bytes),
                 stream, units, all);
  }
  MEDAD_LAUNCH((loss_kernel<C>), dim3(1), dim3(kThreads), 0, stream, all,
               span_of_extent<C>(job.loss, 1));
  if (!job.gradient || rows == 0) return;

  allow_shared(gradient_kernel<kPrecision, C>, bytes);
  MEDAD_LAUNCH((gradient_kernel<kPrecision, C>), row_blocks, dim3(kThreads), std::size_t(bytes),
               stream, units, all, sums);
  MEDAD_LAUNCH((finish_kernel<T, C>), blocks_for(rows, kRowWarps), dim3(kThreads), 0, stream, units,
               sums, all, span_of_extent<T>(job.gradient, elements));
}

}  // namespace

void nt_xent_loss_cuda(const NtXentJob& job, const Launch& where) {
  const DeviceGuard guard(where.device);
  // The unit rows are float32: one TF32 product would round those of 16-bit inputs too.
  with_precision<Precision::kTf32x3>(job.dtype, [&](auto zero, auto compute, auto precision) {
    launch<precision.value, decltype(zero), decltype(compute)>(job, where.stream);
  });
}

}  // namespace medad
