// PatchNCE: row i of an image must pick its own key among the keys of all rows.
//
// With logits l_ij = <q_i, k_j> / T and p_i = softmax(l_i):
//   rows_i         = log sum_j exp(l_ij) - l_ii
//   g_ij           = w_i (p_ij - [i = j]) / T            w_i: the upstream gradient of rows_i
//   query gradient = g k,   key gradient = g^T q
// exact_cut adds one column of constant logit -10 / T to each softmax, as CUT's masked diagonal.
#pragma once

#include <cstdint>

#include "core/cpu_level.h"
#include "core/tensor_view.h"

namespace medad {

constexpr double kCutFill = -10.0;  // what CUT writes over the diagonal, before dividing by T

// Plain data only, since each instruction set's kernel file sees it. A layer is `groups` matrices
// of `size` rows by `depth` columns. All is contiguous and of the type of the arithmetic (float32
// for 16-bit inputs) but for query, key and their gradients.
struct PatchNceLayer {
  const void *query, *key;              // (groups, size, depth)
  const void* weight;                   // (groups, size), or null: w_i = uniform_weight
  void* rows;                           // out (groups, size)
  void* log_sum_exp;                    // (groups, size): scratch of the CUDA kernels
  void *query_gradient, *key_gradient;  // out (groups, size, depth), or null: not wanted
  int64_t groups, size, depth;
  double uniform_weight;
};

struct PatchNceJob {
  const PatchNceLayer* layers;
  int64_t count;
  DType dtype;  // of query
  double temperature;
  bool exact_cut;
  int threads;
};

MEDAD_DECLARE_CPU(patch_nce_loss_cpu, (const PatchNceJob& job))
void patch_nce_loss_cuda(const PatchNceJob& job, const Launch& launch);

}  // namespace medad
