#include "core/bind.h"

#include "ops/nt_xent_loss/nt_xent_loss.h"

namespace medad {
namespace {

void check(const NtXentTensors& t, double temperature, const Launch& where) {
  const DType dtype = t.z1.dtype, compute = compute_dtype(dtype);
  MEDAD_CHECK(is_floating(dtype) && (dtype == compute || !where.on_cpu()),
              "z1: floating dtype expected, on the CPU float32 or float64");
  MEDAD_CHECK(t.z1.dims == 2 && t.z1.shape[1] > 0, "z1: (B, D) with D of at least 1 expected");
  const int64_t pairs = t.z1.shape[0], depth = t.z1.shape[1];
  check_tensor(t.z1, "z1", dtype, {pairs, depth});
  check_tensor(t.z2, "z2", dtype, {pairs, depth});
  check_tensor(t.loss, "loss", compute, {});
  const bool wanted = t.gradient.given();
  if (wanted) check_tensor(t.gradient, "gradient", dtype, {2, pairs, depth});
  if (!where.on_cpu()) {
    check_tensor(t.units, "units", compute, {2, pairs, depth});
    if (wanted) check_tensor(t.sums, "sums", compute, {2, pairs, depth});
    check_tensor(t.rows, "rows", compute, {kNtXentRowValues, 2 * pairs});
  }
  MEDAD_CHECK(temperature > 0, "temperature: positive number expected");
}

template <class T>
NtXentCpu<T> cpu_job(const NtXentTensors& t, double temperature) {
  return {t.z1.ptr<T>(), t.z2.ptr<T>(), t.loss.ptr<T>(), t.gradient.ptr<T>(),
          t.z1.shape[0], t.z1.shape[1], temperature};
}

}  // namespace

int64_t nt_xent_row_values() { return kNtXentRowValues; }

// The fields of NtXentTensors, checked and run.
void nt_xent_loss(const TensorView& z1, const TensorView& z2, const TensorView& loss,
                  const TensorView& gradient, const TensorView& units, const TensorView& sums,
                  const TensorView& rows, double temperature, const Launch& where) {
  const NtXentTensors tensors{z1, z2, loss, gradient, units, sums, rows};
  check(tensors, temperature, where);
  if (!where.on_cpu()) return MEDAD_CALL_CUDA(nt_xent_loss_cuda, tensors, temperature, where);
  if (z1.dtype == DType::kFloat64) {
    MEDAD_CALL_CPU(nt_xent_loss_double, cpu_job<double>(tensors, temperature), where.threads);
  } else {
    MEDAD_CALL_CPU(nt_xent_loss_float, cpu_job<float>(tensors, temperature), where.threads);
  }
}

MEDAD_BIND(nt_xent_row_values);
MEDAD_BIND(nt_xent_loss);

}  // namespace medad
