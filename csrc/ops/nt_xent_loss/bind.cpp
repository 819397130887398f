#include <initializer_list>

#include "core/check.h"
#include "ops/nt_xent_loss/nt_xent_loss.h"

namespace medad {
namespace {

void check_tensor(const TensorView& tensor, const char* name, DType dtype,
                  std::initializer_list<int64_t> shape) {
  MEDAD_CHECK(tensor.dtype == dtype, name << ": wrong dtype");
  MEDAD_CHECK(tensor.dims == int(shape.size()), name << ": wrong number of axes");
  int d = 0;
  for (const int64_t size : shape) MEDAD_CHECK(tensor.shape[d++] == size, name << ": wrong shape");
  MEDAD_CHECK(tensor.is_contiguous(), name << ": contiguous expected");
  MEDAD_CHECK(tensor.data || tensor.numel() == 0, name << ": no memory");
}

void check(const NtXentTensors& t, double temperature, const Launch& where) {
  const DType dtype = t.z1.dtype;
  const bool half = dtype == DType::kFloat16 || dtype == DType::kBFloat16;
  MEDAD_CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64 || (half && !where.on_cpu()),
              "z1: floating dtype expected, on the CPU float32 or float64");
  MEDAD_CHECK(t.z1.dims == 2 && t.z1.shape[1] > 0, "z1: (B, D) with D of at least 1 expected");
  const DType compute = half ? DType::kFloat32 : dtype;
  const int64_t pairs = t.z1.shape[0], depth = t.z1.shape[1];
  check_tensor(t.z1, "z1", dtype, {pairs, depth});
  check_tensor(t.z2, "z2", dtype, {pairs, depth});
  check_tensor(t.loss, "loss", compute, {});
  const bool wanted = t.gradient.dims == 3;
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
  return {t.z1.ptr<T>(),   t.z2.ptr<T>(),
          t.loss.ptr<T>(), t.gradient.dims == 3 ? t.gradient.ptr<T>() : nullptr,
          t.z1.shape[0],   t.z1.shape[1],
          temperature};
}

}  // namespace

void nt_xent_loss(const TensorView& z1, const TensorView& z2, const TensorView& loss,
                  const TensorView& gradient, const TensorView& units, const TensorView& sums,
                  const TensorView& rows, double temperature, const Launch& where) {
  const NtXentTensors tensors{z1, z2, loss, gradient, units, sums, rows};
  check(tensors, temperature, where);
  if (!where.on_cpu()) {
#ifdef MEDAD_WITH_CUDA
    nt_xent_loss_cuda(tensors, temperature, where);
    return;
#else
    MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
  }
  if (z1.dtype == DType::kFloat64) {
    MEDAD_CALL_CPU(nt_xent_loss_double, cpu_job<double>(tensors, temperature), where.threads);
  } else {
    MEDAD_CALL_CPU(nt_xent_loss_float, cpu_job<float>(tensors, temperature), where.threads);
  }
}

}  // namespace medad
