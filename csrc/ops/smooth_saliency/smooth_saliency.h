// Smoothed saliency (CRADL): where the gradient of a score says that the image is abnormal.
//
//   gradient, image (B, C, H, W)   float32/64/16 or bfloat16, one type; each row contiguous
//   out (B, 1, H, W)               contiguous; float32, or float64 for float64 inputs
//
//   a = max over channels of |gradient| * (image != 0)
//   b = median of a over 5x5, borders reflected (the edge not repeated)
//   out = b * Gaussian of 7x7, sigma 3, of sum 1; 0 beyond the border
//
// NaN in a window gives NaN. The median is a network of minima and maxima: the columns of a window
// are sorted, which its neighbours along the row share, then the rows as far as they can hold the
// middle one.
#pragma once

#include <cstdint>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

constexpr int kMedianReach = 2;
constexpr int kMedianSide = 2 * kMedianReach + 1;
constexpr int kGaussianReach = 3;
constexpr int kGaussianSide = 2 * kGaussianReach + 1;

// exp(-k^2 / 18), normalised.
MEDAD_HD double gaussian_tap(int offset) {
  switch (offset < 0 ? -offset : offset) {
    case 0:
      return 0.17524014277641395;
    case 1:
      return 0.1657700723919223;
    case 2:
      return 0.14032133681355635;
    default:
      return 0.10628851940631442;
  }
}

// Any place along an axis of `size`, folded back into it at the first and last element.
MEDAD_HD int64_t reflected(int64_t place, int64_t size) {
  if (place >= 0 && place < size) return place;
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  place = (place < 0 ? -place : place) % period;
  return place < size ? place : period - place;
}

// An Order has `smaller` and `larger` of two values, which are numbers or vectors of them.
template <class Order, class Value>
MEDAD_HD void exchange(Value& low, Value& high) {
  const Value larger = Order::larger(low, high);
  low = Order::smaller(low, high);
  high = larger;
}

template <class Order, class Value>
MEDAD_HD void sort_five(Value (&v)[5]) {
  exchange<Order>(v[0], v[3]);
  exchange<Order>(v[1], v[4]);
  exchange<Order>(v[0], v[2]);
  exchange<Order>(v[1], v[3]);
  exchange<Order>(v[0], v[1]);
  exchange<Order>(v[2], v[4]);
  exchange<Order>(v[1], v[2]);
  exchange<Order>(v[3], v[4]);
  exchange<Order>(v[2], v[3]);
}

// The 13th of 25 values, given as read(rank, column) from five sorted columns.
//
// With the rows sorted too, an element that 13 others cannot exceed or fall below is out; 13
// remain, on three anti-diagonals, and the median is their 7th. Which of them it can be follows
// from the ways in which zeros and ones can lie in such a matrix: (diagonal of 4, of 5, of 4) hold
// at least (0, 3, 4), (1, 2, 4) or (1, 3, 3) ones if and only if there are 13 or more in all. What
// is sorted here in vain the compiler leaves out.
template <class Order, class Value, class Read>
MEDAD_HD Value median_of_columns(Read read) {
  Value row[kMedianSide][kMedianSide];
  MEDAD_UNROLL
  for (int rank = 0; rank < kMedianSide; ++rank) {
    MEDAD_UNROLL
    for (int column = 0; column < kMedianSide; ++column) row[rank][column] = read(rank, column);
    sort_five<Order>(row[rank]);
  }
  const Value highest =
      Order::larger(Order::larger(row[0][3], row[1][2]), Order::larger(row[2][1], row[3][0]));
  Value middle[5] = {row[0][4], row[1][3], row[2][2], row[3][1], row[4][0]};
  sort_five<Order>(middle);
  Value low[4] = {row[1][4], row[2][3], row[3][2], row[4][1]};
  exchange<Order>(low[0], low[1]);
  exchange<Order>(low[2], low[3]);
  exchange<Order>(low[0], low[2]);
  const Value lowest = low[0];
  const Value next = Order::smaller(low[2], Order::smaller(low[1], low[3]));
  const Value with_lowest =
      Order::larger(middle[2], Order::smaller(highest, middle[3]));  // at most middle[3]
  const Value with_next = Order::smaller(highest, Order::smaller(middle[2], next));
  return Order::larger(Order::smaller(with_lowest, lowest), with_next);
}

struct SaliencySide {
  const void* data;
  int64_t batch_stride, channel_stride, row_stride;  // in elements; columns are neighbours
};

// Plain data only, since each instruction set's kernel file sees it.
struct SaliencyJob {
  SaliencySide gradient, image;
  DType dtype;  // of the inputs
  int64_t batch, channels, height, width;
  void* out;
  int threads;
};

MEDAD_DECLARE_CPU(smooth_saliency_cpu, (const SaliencyJob& job))
void smooth_saliency_cuda(const SaliencyJob& job, const Launch& launch);

}  // namespace medad
