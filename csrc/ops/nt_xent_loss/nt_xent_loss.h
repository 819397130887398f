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

// Plain data only, since each instruction set's kernel file sees it. All is contiguous and of the
// type of the arithmetic (float32 for 16-bit inputs) but for z1, z2 and the gradient.
struct NtXentJob {
  const void *z1, *z2;  // (B, D)
  void* loss;           // out ()
  void* gradient;       // out (2, B, D), or null: not wanted
  void* units;          // (2, B, D): scratch of the CUDA kernels, like the next two
  void* sums;           // (2, B, D), with a gradient
  void* rows;           // (kNtXentRowValues, 2 B)
  DType dtype;          // of z1
  int64_t pairs, depth;
  double temperature;
  int threads;
};

MEDAD_DECLARE_CPU(nt_xent_loss_cpu, (const NtXentJob& job))
void nt_xent_loss_cuda(const NtXentJob& job, const Launch& launch);

}  // namespace medad
