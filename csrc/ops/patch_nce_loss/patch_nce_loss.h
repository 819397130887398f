// PatchNCE: row i of an image must pick its own key among the keys of all rows.
//
// With logits l_ij = <q_i, k_j> / T and p_i = softmax(l_i):
//   rows_i         = log sum_j exp(l_ij) - l_ii
//   g_ij           = w_i (p_ij - [i = j]) / T            w_i: the upstream gradient of rows_i
//   query gradient = g k,   key gradient = g^T q
// exact_cut adds one column of constant logit -10 / T to each softmax, as CUT's masked diagonal.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cpu_level.h"
#include "core/half.h"
#include "core/tensor_view.h"

namespace medad {

constexpr double kCutFill = -10.0;  // what CUT writes over the diagonal, before dividing by T

// One entry a layer; all tensors of a layer have one dtype, but rows, weight and log_sum_exp have
// the dtype of the arithmetic (float32 for 16-bit inputs). All are contiguous.
struct PatchNceTensors {
  std::vector<TensorView> query;        // (B, S, D)
  std::vector<TensorView> key;          // (B, S, D)
  std::vector<TensorView> weight;       // (B, S), or no entries: w_i = uniform_weight
  std::vector<TensorView> rows;         // out (B, S)
  std::vector<TensorView> log_sum_exp;  // out (B, S): scratch of the CUDA kernels, else no entries
  std::vector<TensorView> query_gradient;  // out (B, S, D), or no entries: not wanted
  std::vector<TensorView> key_gradient;    // out (B, S, D), or no entries: not wanted
};

struct PatchNceOptions {
  double temperature;
  bool batch_negatives;  // one group of B * S rows instead of B groups of S
  bool exact_cut;
  bool mean;  // w_i = 1 / (B S) where no weight is given, else 1
};

// One layer as the kernels see it: `groups` matrices of `size` rows by `depth` columns.
template <class Pointer, class ConstPointer, class Compute, class ConstCompute>
struct PatchNceLayer {
  ConstPointer query, key;
  ConstCompute weight;  // may be null
  Compute rows, log_sum_exp;
  Pointer query_gradient, key_gradient;  // may be null
  int64_t groups, size, depth;
  double uniform_weight;
};

template <class T>
using PatchNceCpuLayer = PatchNceLayer<T*, const T*, T*, const T*>;

MEDAD_DECLARE_CPU(patch_nce_loss_float, (const PatchNceCpuLayer<float>* layers, int64_t count,
                                         const PatchNceOptions& options, int threads))
MEDAD_DECLARE_CPU(patch_nce_loss_double, (const PatchNceCpuLayer<double>* layers, int64_t count,
                                          const PatchNceOptions& options, int threads))

void patch_nce_loss_cuda(const PatchNceTensors& tensors, const PatchNceOptions& options,
                         const Launch& where);

}  // namespace medad
