#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/dispatch.h"
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

bool is_given(const TensorView& tensor) { return !(tensor.dims == 1 && tensor.shape[0] == 0); }

void check_shape(const TensorView& tensor, const char* name, const TensorView& x, int64_t height,
                 int64_t width) {
  MEDAD_CHECK(tensor.dims == 4 && tensor.shape[0] == x.shape[0] && tensor.shape[1] == x.shape[1] &&
                  tensor.shape[2] == height && tensor.shape[3] == width,
              name << ": wrong shape");
  MEDAD_CHECK(tensor.data || tensor.numel() == 0, name << ": no memory");
}

SsimImages images_of(const TensorView& tensor) {
  SsimImages images{tensor.data, {}};
  for (int d = 0; d < 4; ++d) images.strides[d] = tensor.strides[d];
  return images;
}

}  // namespace

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
  const DType compute = x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;

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
    if (!is_given(tensor)) return;
    MEDAD_CHECK(tensor.dtype == x.dtype, name << ": dtype of x expected");
    check_shape(tensor, name, x, job.height, job.width);
    images = images_of(tensor);
  };
  attach(x, "x", job.x);
  attach(y, "y", job.y);
  attach(grad_x, "grad_x", job.grad_x);
  attach(grad_y, "grad_y", job.grad_y);
  MEDAD_CHECK(is_given(y), "y: shape of x expected");
  const auto check_map = [&](const TensorView& tensor, const char* name) {
    MEDAD_CHECK(tensor.dtype == compute && tensor.is_contiguous(),
                name << ": contiguous, of the type of the arithmetic expected");
    check_shape(tensor, name, x, job.map_rows(), job.map_columns());
    return tensor.data;
  };
  if (is_given(map)) job.map = check_map(map, "map");
  if (is_given(upstream)) job.upstream = check_map(upstream, "upstream");
  if (is_given(total)) {
    MEDAD_CHECK(total.dims == 0 && total.dtype == compute && total.data, "total: scalar expected");
    job.total = total.data;
  }
  job.scale = scale;
  job.weight = weight;
  const std::vector<double> window = window_of(job.radius, sigma, compute == DType::kFloat32);
  job.window = window.data();
  job.wide = !(data_range >= kSmallestRange && data_range <= kLargestRange);
  job.c1 = kC1 * data_range * (kC1 * data_range);
  job.c2 = kC2 * data_range * (kC2 * data_range);
  job.threads = launch.threads > 1 ? launch.threads : 1;
  if (launch.on_cpu()) {
    MEDAD_CALL_CPU(ssim_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  ssim_cuda(job, scratch, launch);
#else
  (void)scratch;
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
