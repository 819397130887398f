#include "core/bind.h"

#include "ops/patch_nce_loss/patch_nce_loss.h"

namespace medad {
namespace {

using Views = std::vector<TensorView>;

// A tensor a layer, of the first `dims` axes of its queries.
void check_list(const Views& list, const char* name, DType dtype, int dims, const Views& query) {
  MEDAD_CHECK(list.size() == query.size(), name << ": one tensor a layer expected");
  for (std::size_t l = 0; l < list.size(); ++l) {
    check_shape(list[l], name, query[l].shape, dims);
    check_dtype(list[l], name, dtype);
    MEDAD_CHECK(list[l].is_contiguous(), name << ": contiguous expected");
  }
}

void* data_of(const Views& list, std::size_t layer) {
  return list.empty() ? nullptr : list[layer].data;
}

}  // namespace

// One tensor a layer: query, key (B, S, D); weight (B, S), or none: w_i = 1 / (B S) with `mean`,
// else 1; rows, out, and log_sum_exp, for the GPU (B, S); query_gradient, key_gradient, out (B, S,
// D), or none: not wanted. With `batch_negatives` the rows of a batch are one group.
void patch_nce_loss(const Views& query, const Views& key, const Views& weight, const Views& rows,
                    const Views& log_sum_exp, const Views& query_gradient,
                    const Views& key_gradient, double temperature, bool batch_negatives,
                    bool exact_cut, bool mean, const Launch& launch) {
  MEDAD_CHECK(!query.empty(), "query: at least one layer expected");
  const DType dtype = query[0].dtype, compute = compute_dtype(dtype);
  MEDAD_CHECK(is_floating(dtype) && (dtype == compute || !launch.on_cpu()),
              "query: floating dtype expected, on the CPU float32 or float64");
  check_list(query, "query", dtype, 3, query);
  check_list(key, "key", dtype, 3, query);
  if (!weight.empty()) check_list(weight, "weight", compute, 2, query);
  check_list(rows, "rows", compute, 2, query);
  if (!launch.on_cpu()) check_list(log_sum_exp, "log_sum_exp", compute, 2, query);
  if (!query_gradient.empty()) check_list(query_gradient, "query_gradient", dtype, 3, query);
  if (!key_gradient.empty()) check_list(key_gradient, "key_gradient", dtype, 3, query);
  MEDAD_CHECK(temperature > 0, "temperature: positive number expected");
  std::vector<PatchNceLayer> layers;
  for (std::size_t l = 0; l < query.size(); ++l) {
    const int64_t batch = query[l].shape[0], size = query[l].shape[1], depth = query[l].shape[2];
    MEDAD_CHECK(depth > 0, "query: D of at least 1 expected");
    layers.push_back({query[l].data, key[l].data, data_of(weight, l), rows[l].data,
                      data_of(log_sum_exp, l), data_of(query_gradient, l), data_of(key_gradient, l),
                      batch_negatives ? 1 : batch, batch_negatives ? batch * size : size, depth,
                      mean ? 1.0 / double(batch * size) : 1.0});
  }
  const PatchNceJob job{layers.data(), int64_t(layers.size()), dtype, temperature,
                        exact_cut,     launch.threads};
  MEDAD_RUN(patch_nce_loss, job, launch);
}

MEDAD_BIND(patch_nce_loss);

}  // namespace medad
