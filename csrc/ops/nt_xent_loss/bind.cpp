#include "core/bind.h"

#include "ops/nt_xent_loss/nt_xent_loss.h"

namespace medad {

int64_t nt_xent_row_values() { return kNtXentRowValues; }

// gradient: absent where not wanted; units, sums (with a gradient), rows: for the GPU.
void nt_xent_loss(const TensorView& z1, const TensorView& z2, const TensorView& loss,
                  const TensorView& gradient, const TensorView& units, const TensorView& sums,
                  const TensorView& rows, double temperature, const Launch& launch) {
  const DType dtype = z1.dtype, compute = compute_dtype(dtype);
  const int64_t pairs = z1.shape[0], depth = z1.shape[1];
  MEDAD_CHECK(is_floating(dtype) && (dtype == compute || !launch.on_cpu()),
              "z1: floating dtype expected, on the CPU float32 or float64");
  MEDAD_CHECK(z1.dims == 2 && depth > 0, "z1: (B, D) with D of at least 1 expected");
  check_tensor(z1, "z1", dtype, {pairs, depth});
  check_tensor(z2, "z2", dtype, {pairs, depth});
  check_tensor(loss, "loss", compute, {});
  if (gradient.given()) check_tensor(gradient, "gradient", dtype, {2, pairs, depth});
  if (!launch.on_cpu()) {
    check_tensor(units, "units", compute, {2, pairs, depth});
    if (gradient.given()) check_tensor(sums, "sums", compute, {2, pairs, depth});
    check_tensor(rows, "rows", compute, {kNtXentRowValues, 2 * pairs});
  }
  MEDAD_CHECK(temperature > 0, "temperature: positive number expected");
  const NtXentJob job{z1.data,   z2.data, loss.data, gradient.data, units.data,  sums.data,
                      rows.data, dtype,   pairs,     depth,         temperature, launch.threads};
  MEDAD_RUN(nt_xent_loss, job, launch);
}

MEDAD_BIND(nt_xent_row_values);
MEDAD_BIND(nt_xent_loss);

}  // namespace medad
