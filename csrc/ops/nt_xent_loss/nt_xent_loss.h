// NT-Xent (SimCLR): each of N = 2 B rows must pick its other view among all rows but itself.
//
// With u_i the rows of z1, then of z2, divided by their lengths (a row of zeros stays as it is),
// s_ij = <u_i, u_j>, p(i) = i +- B, and P_ij = exp(s_ij / T) / sum_{k != i} exp(s_ik / T):
//   loss = 1/N sum_i -log P_ip(i)
//   E_ij = (P_ij - [j = p(i)]) / (N T) for j != i, else 0
//   du   = (E + E^T) u,   dz_i = (du_i - u_i <u_i, du_i>) / |z_i|
// s is symmetric, so that one exponential e_ij = exp((s_ij - 1) / T) serves rows i and j.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

struct NtXentTensors {
  TensorView z1, z2;    // (B, D)
  TensorView loss;      // out (), in the dtype of the arithmetic (float32 for 16-bit inputs)
  TensorView gradient;  // out (2, B, D) in the dtype of z1, or absent: not wanted
  TensorView units;     // (2, B, D), scratch of the CUDA kernels like the next two, else absent
  TensorView sums;      // (2, B, D) in the dtype of the arithmetic, or absent without gradient
  TensorView rows;      // (kNtXentRowValues, 2 B) in the dtype of the arithmetic
};

// What the CUDA kernels keep of each row.
enum NtXentRowValue : int {
  kLargest,  // element of z_i, or 1
  kRoot,     // |z_i| / largest, or 1
  kTop,      // the largest s_ij, j != i
  kOthers,   // sum of exp((s_ij - top) / T) without i and p(i)
  kWeight,   // 1 / (N T sum of exp((s_ij - top) / T) without i)
  kRowLoss,
  kNtXentRowValues
};

// -log P of the positive, whose logit lies `distance` <= 0 below the top. It is kept out of the sum
// `others`, so that neither this nor P - 1 cancels where the positive wins by far.
template <class C>
MEDAD_HD C nt_xent_row_loss(C others, C distance) {
  // Further down own underflows.
  const C own = std::exp(distance);
  if (distance > C(sizeof(C) == 8 ? -600 : -60)) return std::log1p(others / own);
  return std::log(own + others) - distance;
}

template <class T>
struct NtXentCpu {
  const T* z1;
  const T* z2;
  T* loss;
  T* gradient;  // may be null
  int64_t pairs, depth;
  double temperature;
};

MEDAD_DECLARE_CPU(nt_xent_loss_float, (const NtXentCpu<float>& job, int threads))
MEDAD_DECLARE_CPU(nt_xent_loss_double, (const NtXentCpu<double>& job, int threads))

void nt_xent_loss_cuda(const NtXentTensors& tensors, double temperature, const Launch& where);

}  // namespace medad
