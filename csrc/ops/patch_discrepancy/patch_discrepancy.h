// Patch discrepancy (PatchCL-AE's score): per position of each layer, half the squared distance of
// the two unit feature vectors, resized bilinearly to one size and summed over the layers.
//
//   features, reconstructed   per layer (B, C, H, W), any strides; float32/64/16 or bfloat16
//   w1 (D1, C), b1 (D1), w2 (D2, D1), b2 (D2)   per layer, contiguous, the features' type; optional
//   out                       (B, 1, H, W), or (layers, B, 1, H, W) kept separate; float32, or
//                             float64 for float64 features
//
// How it keeps its digits. With s = |a|^2, t = |b|^2 and r = |a - b|^2, all summed in double,
//   |a/|a| - b/|b||^2 / 2 = (r - (|a| - |b|)^2) / (2 |a| |b|),
// which is as good as exact for nearly equal vectors (r and |a| - |b| are small themselves, where
// 1 - cosine would lose every digit), exactly 0 for equal ones, and cannot overflow for any
// float32. Float64 features have no wider type to sum in: they take passes for the largest element,
// the norms, and the distance of the unit vectors.
#pragma once

#include <cmath>
#include <cstring>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

// Two neighbours on one axis and the weight of the second, for half-pixel centres.
struct Tap {
  int64_t first, second;
  double weight;
};

// In integers, so that the weight is the exact fraction rounded once, on every device.
MEDAD_HD Tap tap_of(int64_t target, int64_t from, int64_t to) {
  if (from == to) return {target, target, 0.0};
  const int64_t numerator = (2 * target + 1) * from - to;
  if (numerator <= 0) return {0, from > 1 ? 1 : 0, 0.0};
  const int64_t first = numerator / (2 * to);
  if (first >= from - 1) return {from - 1, from - 1, 0.0};
  return {first, first + 1, double(numerator - first * 2 * to) / double(2 * to)};
}

// What is left of a computed distance once zero, infinite and NaN vectors have had their say. `a`
// and `b` are squared norms.
MEDAD_HD double settle(double a, double b, double distance) {
  distance = distance < 0 ? 0 : distance;
  distance = distance > 2 ? 2 : distance;
  // A zero vector equals another zero vector and is at right angles to anything else.
  const double with_zero = a == b ? 0 : 1;
  distance = a * b == 0 ? with_zero : distance;
  // False for infinity and for NaN.
  return a + b < HUGE_VAL ? distance : double(NAN);
}

// `difference` is |a - b|^2.
MEDAD_HD double distance_of(double a, double b, double difference) {
  // Not sqrt(a) - sqrt(b), which would lose the digits that a - b still has.
  const double gap = (a - b) / (std::sqrt(a) + std::sqrt(b));
  return settle(a, b, (difference - gap * gap) / (2 * std::sqrt(a * b)));
}

// Norm of the vector whose squared norm is `own`, to divide its elements by; infinite where either
// vector is zero, since the distance is constant there.
MEDAD_HD double norm_of(double own, double other) {
  const double norm = own * other == 0 ? HUGE_VAL : std::sqrt(own);
  return own + other < HUGE_VAL ? norm : double(NAN);
}

// The derivative of the distance along unit elements u and v, before the factor 1 / norm. Written
// through u - v, so that equal vectors get exactly 0.
MEDAD_HD double slope_a(double u, double v, double distance) { return (u - v) - distance * u; }
MEDAD_HD double slope_b(double u, double v, double distance) { return (v - u) - distance * v; }

// 2^-e for x in [2^e, 2^(e+1)), as near as that is a normal number.
MEDAD_HD double power_of_two_below(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  int64_t exponent = 2046 - int64_t(bits >> 52);
  exponent = exponent > 2045 ? 2045 : exponent < 1 ? 1 : exponent;
  bits = uint64_t(exponent) << 52;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Plain data only, since each instruction set's kernel file sees it.
struct DiscrepancySide {
  void* data;
  int64_t batch_stride, channel_stride, row_stride, column_stride;  // in elements
};

struct DiscrepancyHead {
  const void *w1, *b1, *w2, *b2;  // null without heads
  int64_t hidden, projected;
};

struct DiscrepancyLayer {
  DiscrepancySide features, reconstructed;
  DiscrepancySide grad_features, grad_reconstructed;  // data null where no gradient is wanted
  int64_t channels, height, width;
  DiscrepancyHead head;
};

struct DiscrepancyJob {
  const DiscrepancyLayer* layers;
  int layer_count;
  DType dtype;  // of the features
  int64_t batch, height, width;
  bool separate;  // one map a layer instead of their sum
  double scale;   // 1, or 1 / layers for the mean
  void* map;      // out, or the gradient that comes in
  void* scratch;  // for the GPU: the layers' own maps
  int threads;
};

enum class Reduction : int { kSum, kMean, kNone };

MEDAD_DECLARE_CPU(patch_discrepancy_cpu, (const DiscrepancyJob& job))
MEDAD_DECLARE_CPU(patch_discrepancy_backward_cpu, (const DiscrepancyJob& job))
void patch_discrepancy_cuda(const DiscrepancyJob& job, const Launch& launch);
void patch_discrepancy_backward_cuda(const DiscrepancyJob& job, const Launch& launch);

}  // namespace medad
