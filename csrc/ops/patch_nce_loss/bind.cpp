#include "core/bind.h"

#include "ops/patch_nce_loss/patch_nce_loss.h"

namespace medad {
namespace {

// The first `dims` axes of the queries; an optional list may have no entries.
void check_list(const std::vector<TensorView>& list, const char* name, DType dtype, int dims,
                const std::vector<TensorView>& query, bool optional) {
  if (optional && list.empty()) return;
  MEDAD_CHECK(list.size() == query.size(), name << ": one tensor a layer expected");
  for (std::size_t l = 0; l < list.size(); ++l) {
    check_dtype(list[l], name, dtype);
    check_shape(list[l], name, query[l].shape, dims);
    MEDAD_CHECK(list[l].is_contiguous(), name << ": contiguous expected");
  }
}

void check(const PatchNceTensors& t, const PatchNceOptions& options, const Launch& where) {
  MEDAD_CHECK(!t.query.empty(), "query: at least one layer expected");
  const DType dtype = t.query[0].dtype, compute = compute_dtype(dtype);
  MEDAD_CHECK(is_floating(dtype) && (dtype == compute || !where.on_cpu()),
              "query: floating dtype expected, on the CPU float32 or float64");
  check_list(t.query, "query", dtype, 3, t.query, false);
  for (const TensorView& query : t.query) {
    MEDAD_CHECK(query.shape[2] > 0, "query: D of at least 1 expected");
  }
  check_list(t.key, "key", dtype, 3, t.query, false);
  check_list(t.weight, "weight", compute, 2, t.query, true);
  check_list(t.rows, "rows", compute, 2, t.query, false);
  check_list(t.log_sum_exp, "log_sum_exp", compute, 2, t.query, where.on_cpu());
  check_list(t.query_gradient, "query_gradient", dtype, 3, t.query, true);
  check_list(t.key_gradient, "key_gradient", dtype, 3, t.query, true);
  MEDAD_CHECK(options.temperature > 0, "temperature: positive number expected");
}

template <class T>
T* pointer_or_null(const std::vector<TensorView>& list, std::size_t layer) {
  return list.empty() ? nullptr : list[layer].ptr<T>();
}

template <class T>
std::vector<PatchNceCpuLayer<T>> cpu_layers(const PatchNceTensors& t,
                                            const PatchNceOptions& options) {
  std::vector<PatchNceCpuLayer<T>> layers;
  for (std::size_t l = 0; l < t.query.size(); ++l) {
    const int64_t batch = t.query[l].shape[0], size = t.query[l].shape[1];
    const bool together = options.batch_negatives;
    layers.push_back({t.query[l].ptr<T>(), t.key[l].ptr<T>(), pointer_or_null<T>(t.weight, l),
                      t.rows[l].ptr<T>(), nullptr, pointer_or_null<T>(t.query_gradient, l),
                      pointer_or_null<T>(t.key_gradient, l), together ? 1 : batch,
                      together ? batch * size : size, t.query[l].shape[2],
                      options.mean ? 1.0 / double(batch * size) : 1.0});
  }
  return layers;
}

}  // namespace

// The fields of PatchNceTensors and PatchNceOptions, checked and run.
void patch_nce_loss(const std::vector<TensorView>& query, const std::vector<TensorView>& key,
                    const std::vector<TensorView>& weight, const std::vector<TensorView>& rows,
                    const std::vector<TensorView>& log_sum_exp,
                    const std::vector<TensorView>& query_gradient,
                    const std::vector<TensorView>& key_gradient, double temperature,
                    bool batch_negatives, bool exact_cut, bool mean, const Launch& where) {
  const PatchNceTensors tensors{query,          key,         weight, rows, log_sum_exp,
                                query_gradient, key_gradient};
  const PatchNceOptions options{temperature, batch_negatives, exact_cut, mean};
  check(tensors, options, where);
  if (!where.on_cpu()) return MEDAD_CALL_CUDA(patch_nce_loss_cuda, tensors, options, where);
  if (tensors.query[0].dtype == DType::kFloat64) {
    const auto layers = cpu_layers<double>(tensors, options);
    MEDAD_CALL_CPU(patch_nce_loss_double, layers.data(), int64_t(layers.size()), options,
                   where.threads);
  } else {
    const auto layers = cpu_layers<float>(tensors, options);
    MEDAD_CALL_CPU(patch_nce_loss_float, layers.data(), int64_t(layers.size()), options,
                   where.threads);
  }
}

MEDAD_BIND(patch_nce_loss);

}  // namespace medad
