// Structural similarity of two images (Wang et al., 2004) under a Gaussian window, and its
// gradient.
//
//   x, y               (B, C, H, W), any strides; float32/64/16 or bfloat16
//   map, upstream      (B, C, Ho, Wo) contiguous; float32, or float64 for float64 images
//   total              () of the same type: the map's sum times `scale`
//   grad_x, grad_y     the images' shape and type, any strides
//
// How it keeps its digits. Not x and y are blurred but their sum s and difference d, with means a
// and b and variances v_s and v_d. Then, exactly as in the usual form,
//   SSIM = (1 - b^2 / A) (1 - v_d / D),  A = (a^2 + b^2) / 2 + C1,  D = (v_s + v_d) / 2 + C2,
// in four blurs instead of five. Equal images have d = 0 and so exactly 1; with v_s and v_d held at
// 0 or more each factor lies in [-1, 1] whatever was rounded; and the digits that E[s^2] - a^2
// loses on bright flat patches only touch a denominator that C2 dominates. What is left of that
// loss goes by subtracting from s, before anything is squared, a grey level from the middle of the
// image.
#pragma once

#include <cstdint>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

// Blurred sum (less `centre`), difference, and their squares, at one place. V is a number or a
// vector register of them.
template <class V>
struct SsimMoments {
  V sum, difference, sum_square, difference_square;
};

// The value, and what it is built of.
template <class V>
struct SsimValue {
  V value;
  V luminance, structure;          // the two factors
  V shared_mean, shared_variance;  // b^2 / A and v_d / D
  V inverse_a, inverse_d;
  V product;  // A D, unless computed in float64: not finite where the moments left the range
};

// Derivatives of the value by the four moments, those by the squares doubled. `sum` is the one for
// a centred sum.
template <class V>
using SsimPartials = SsimMoments<V>;

template <class V>
MEDAD_HD V ssim_at_least_zero(V x) {
  return x < V{} ? V{} : x;  // NaN stays
}

template <bool kWide, class V>
MEDAD_HD SsimValue<V> ssim_value(const SsimMoments<V>& m, V centre, V c1, V c2) {
  SsimValue<V> r;
  const V a = m.sum + centre;
  const V b2 = m.difference * m.difference;
  const V mean = (a * a + b2) * 0.5f + c1;
  const V variance_d = ssim_at_least_zero(V(m.difference_square - b2));
  const V variance_s = ssim_at_least_zero(V(m.sum_square - m.sum * m.sum));
  const V variance = (variance_s + variance_d) * 0.5f + c2;
  r.product = mean * variance;
  if (kWide) {
    r.inverse_a = 1.0f / mean;
    r.inverse_d = 1.0f / variance;
  } else {  // divisions are slow
    const V inverse = 1.0f / r.product;
    r.inverse_a = variance * inverse;
    r.inverse_d = mean * inverse;
  }
  r.shared_mean = b2 * r.inverse_a;
  r.shared_variance = variance_d * r.inverse_d;
  r.luminance = 1.0f - r.shared_mean;
  r.structure = 1.0f - r.shared_variance;
  const V value = r.luminance * r.structure;
  const V one = V{} + 1.0f;
  const V not_below = value < -one ? -one : value;
  r.value = not_below > one ? one : not_below;
  return r;
}

template <class V>
MEDAD_HD SsimPartials<V> ssim_partials(const SsimMoments<V>& m, const SsimValue<V>& r, V centre) {
  SsimPartials<V> p;
  const V slope = r.luminance * r.inverse_d;
  p.sum_square = slope * r.shared_variance;
  p.difference_square = p.sum_square - (slope + slope);
  const V pull = r.structure * r.inverse_a;
  p.sum = pull * r.shared_mean * (m.sum + centre) - m.sum * p.sum_square;
  p.difference = -(m.difference * (pull * (1.0f + r.luminance) + p.difference_square));
  return p;
}

// Plain data only, since each instruction set's kernel file sees it.
struct SsimImages {
  void* data;          // null where a gradient is not wanted
  int64_t strides[4];  // in elements
};

struct SsimJob {
  SsimImages x, y, grad_x, grad_y;
  DType dtype;
  int64_t batch, channels, height, width;
  int64_t radius, padding;  // of the window; zeros around the image
  const double* window;     // weight at distance 0 .. radius; floats unless dtype is float64
  double c1, c2;
  bool wide;             // compute in float64 whatever the dtype
  void* map;             // or null
  const void* upstream;  // gradient that comes in, or null: `weight` everywhere
  double weight;
  void* total;  // or null
  double scale;
  int threads;
  double* sums;  // of tiles: scratch of the CUDA kernels, `sum_count` numbers
  int64_t sum_count;

  // Of the padded image, and of the map.
  int64_t rows() const { return height + 2 * padding; }
  int64_t columns() const { return width + 2 * padding; }
  int64_t map_rows() const { return rows() - 2 * radius; }
  int64_t map_columns() const { return columns() - 2 * radius; }
};

MEDAD_DECLARE_CPU(ssim_cpu, (const SsimJob& job))

void ssim_cuda(const SsimJob& job, const Launch& launch);

}  // namespace medad
