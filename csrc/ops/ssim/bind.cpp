#include "core/bind.h"

#include <cmath>

#include "ops/ssim/ssim.h"

namespace medad {
namespace {

constexpr double kC1 = 0.01, kC2 = 0.03;  // of the data range, squared: Wang et al., 2004

// Data ranges for which squares and products of constants fit in float32.
constexpr double kSmallestRange = 0x1p-24, kLargestRange = 0x1p24;

// The Gaussian at distance 0 .. radius, with sum 1 over the whole window. Rounded to float32, the
// error of the sum is passed on to ever smaller weights: left in, it would scale E[s^2] and a^2
// apart, the largest error there is on bright flat patches.
std::vector<double> window_of(int64_t radius, double sigma, bool to_float) {
  std::vector<double> window(std::size_t(radius) + 1);
  double sum = 0;
  for (int64_t k = radius; k >= 0; --k) {
    const double z = double(k) / sigma;
    window[k] = std::exp(-0.5 * z * z);
    sum += k == 0 ? window[k] : 2 * window[k];
  }
  double excess = -1;
  for (int64_t k = radius; k >= 0; --k) {
    window[k] /= sum;
    if (to_float) window[k] = double(float(window[k]));
    excess += k == 0 ? window[k] : 2 * window[k];
  }
  for (int64_t k = 0; to_float && k <= radius; ++k) {
    const double share = k == 0 ? 1 : 2;
    const double corrected = double(float(window[k] - excess / share));
    if (corrected < 0) continue;
    excess += share * (corrected - window[k]);
    window[k] = corrected;
  }
  return window;
}

}  // namespace

// map, total, upstream, grad_x, grad_y: absent where not wanted or given. Without upstream the
// gradient is that of `weight` times the sum of the map. `scratch`: float64, a number for each tile
// of at least 8 x 8 of the padded images, for the GPU.
void ssim(const TensorView& x, const TensorView& y, double data_range, int64_t window_size,
          double sigma, bool same, const TensorView& map, const TensorView& total, double scale,
          const TensorView& upstream, double weight, const TensorView& grad_x,
          const TensorView& grad_y, const TensorView& scratch, const Launch& launch) {
  MEDAD_CHECK(is_floating(x.dtype), "x: floating dtype expected");
  MEDAD_CHECK(x.dims == 4, "x: (B, C, H, W) expected");
  MEDAD_CHECK(window_size > 0 && window_size % 2 == 1 && window_size < (int64_t(1) << 31),
              "window_size: odd number expected");
  MEDAD_CHECK(sigma > 0, "sigma: positive number expected");
  MEDAD_CHECK(data_range > 0 && data_range < HUGE_VAL, "data_range: positive number expected");
  const DType compute = compute_dtype(x.dtype);

  SsimJob job{};
  job.dtype = x.dtype;
  job.batch = x.shape[0];
  job.channels = x.shape[1];
  job.height = x.shape[2];
  job.width = x.shape[3];
  job.radius = window_size / 2;
  job.padding = same ? job.radius : 0;
  MEDAD_CHECK(job.height > 0 && job.width > 0 && job.map_rows() > 0 && job.map_columns() > 0,
              "x: H and W of at least the window expected");
  const auto attach = [&](const TensorView& tensor, const char* name, SsimImages& images) {
    check_like(tensor, name, x);
    images.data = tensor.data;
    for (int d = 0; d < 4; ++d) images.strides[d] = tensor.strides[d];
  };
  attach(x, "x", job.x);
  attach(y, "y", job.y);
  if (grad_x.given()) attach(grad_x, "grad_x", job.grad_x);
  if (grad_y.given()) attach(grad_y, "grad_y", job.grad_y);
  for (const auto& [tensor, name] : {std::pair{&map, "map"}, std::pair{&upstream, "upstream"}}) {
    if (!tensor->given()) continue;
    check_tensor(*tensor, name, compute,
                 {job.batch, job.channels, job.map_rows(), job.map_columns()});
  }
  if (total.given()) check_tensor(total, "total", compute, {});
  job.map = map.data;
  job.upstream = upstream.data;
  job.total = total.data;
  job.scale = scale;
  job.weight = weight;
  const std::vector<double> window = window_of(job.radius, sigma, compute == DType::kFloat32);
  job.window = window.data();
  job.wide = !(data_range >= kSmallestRange && data_range <= kLargestRange);
  job.c1 = kC1 * data_range * (kC1 * data_range);
  job.c2 = kC2 * data_range * (kC2 * data_range);
  job.threads = launch.threads;
  if (!launch.on_cpu()) {
    check_dtype(scratch, "scratch", DType::kFloat64);
    job.sums = scratch.ptr<double>();
    job.sum_count = scratch.numel();
  }
  MEDAD_RUN(ssim, job, launch);
}

MEDAD_BIND(ssim);

}  // namespace medad
