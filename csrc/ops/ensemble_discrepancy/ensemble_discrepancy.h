// Ensemble discrepancy (DDAD): per pixel, how far the means of two ensembles of reconstructions lie
// apart, how far the members of one disagree, and how far its mean is from the image.
//
//   unknown (Ka, B, C, H, W), normal (Kb, B, C, H, W)   float32/64/16 or bfloat16, one type; any
//                                    strides of members and images, each image contiguous
//   image (B, C, H, W)               likewise; optional
//   log_variance (Kb, B, C, H, W)    likewise; optional: of the members of `normal` (AE-U)
//   out (2 or 3, B, C, H, W)         inter, intra and, with an image, reconstruction; contiguous;
//                                    float32, or float64 for float64 inputs
//
// With m the means over the members and v the mean of exp(log_variance), or 1 without:
//   inter = |m_unknown - m_normal| / sqrt(v)
//   intra = sqrt(sum over k of (normal_k - m_normal)^2 / (Kb - 1) / v)      NaN for Kb = 1
//   reconstruction = (image - m_normal)^2 / v
//
// How it keeps its digits. Deviations are those from the first member, less their mean, so that
// equal members give exactly 0 and nearly equal ones keep their relative accuracy. v is taken
// relative to the largest log-variance: it neither overflows nor vanishes where the result does
// not. Inputs of up to 32 bits are first computed in float32 (quick_maps), which also says of each
// pixel whether that can be trusted; where it cannot, and for many members, in double (exact_maps).
#pragma once

#include <cmath>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

// More members are summed in double.
constexpr int kMaxQuickMembers = 16;

template <class Value>
struct EnsembleMaps {
  Value inter, intra, reconstruction;
};

template <class Real>
struct EnsembleSizes {
  int unknown, normal;
  bool image, log_variance;
  Real one_in_unknown, one_in_normal, one_in_freedom;
};

template <class Real>
MEDAD_HD EnsembleSizes<Real> sizes_of(int unknown, int normal, bool image, bool log_variance) {
  // One in zero is infinite, and 0 times it NaN: the deviation of a single member.
  return {unknown,
          normal,
          image,
          log_variance,
          Real(1) / Real(unknown),
          Real(1) / Real(normal),
          Real(1) / Real(normal - 1)};
}

// A Math has the functions of ScalarMath for its Value: one number, or on the CPU a vector of them.
// `unknown(k)`, `normal(k)` and `log_variance(k)` read member k, `image()` the image.
template <class Real>
struct ScalarMath {
  using Value = Real;
  using Mask = bool;
  static MEDAD_HD Real root(Real x) { return std::sqrt(x); }
  static MEDAD_HD Real magnitude(Real x) { return std::fabs(x); }
  static MEDAD_HD Real exponential(Real x) { return std::exp(x); }  // quick_maps: of x <= 0
  static MEDAD_HD Real multiply_add(Real a, Real b, Real c) { return a * b + c; }
};

template <class Math, class Unknown, class Normal, class Image, class LogVariance>
MEDAD_HD EnsembleMaps<typename Math::Value> exact_maps(const EnsembleSizes<double>& sizes,
                                                       Unknown unknown, Normal normal, Image image,
                                                       LogVariance log_variance) {
  using Value = typename Math::Value;
  const Value first = normal(0);
  Value total = first, shift = first - first;  // not 0: infinity and NaN must not vanish
  for (int k = 1; k < sizes.normal; ++k) {
    const Value member = normal(k);
    total += member;
    shift += member - first;
  }
  const Value mean = total * sizes.one_in_normal;
  shift *= sizes.one_in_normal;
  Value squares = shift * shift;
  for (int k = 1; k < sizes.normal; ++k) {
    const Value deviation = (normal(k) - first) - shift;
    squares += deviation * deviation;
  }
  total = unknown(0);
  for (int k = 1; k < sizes.unknown; ++k) total += unknown(k);

  EnsembleMaps<Value> maps;
  maps.inter = Math::magnitude(total * sizes.one_in_unknown - mean);
  maps.intra = Math::root(squares * sizes.one_in_freedom);
  Value gap = sizes.image ? image() - mean : Value{};
  maps.reconstruction = gap * gap;
  if (!sizes.log_variance) return maps;

  Value largest = log_variance(0);
  for (int k = 1; k < sizes.normal; ++k) {
    const Value other = log_variance(k);
    largest = other > largest ? other : largest;
  }
  // Where it is infinite the terms are 0 or infinite themselves, and nothing is to be divided out.
  largest = Math::magnitude(largest) < HUGE_VAL ? largest : Value{};
  total = Math::exponential(log_variance(0) - largest);
  for (int k = 1; k < sizes.normal; ++k) total += Math::exponential(log_variance(k) - largest);
  const Value scale = Math::exponential(largest * -0.5) / Math::root(total * sizes.one_in_normal);
  maps.inter *= scale;
  maps.intra *= scale;
  gap *= scale;
  maps.reconstruction = gap * gap;
  return maps;
}

// `trusted`: of each value, whether nothing overflowed or vanished, and no input was infinite or
// NaN.
template <class Math, class Unknown, class Normal, class Image, class LogVariance>
MEDAD_HD EnsembleMaps<typename Math::Value> quick_maps(const EnsembleSizes<float>& sizes,
                                                       Unknown unknown, Normal normal, Image image,
                                                       LogVariance log_variance,
                                                       typename Math::Mask& trusted) {
  using Value = typename Math::Value;
  const Value first = normal(0), other_first = unknown(0);
  Value shift{}, other_shift{}, farthest{};
  for (int k = 1; k < sizes.normal; ++k) {
    const Value deviation = normal(k) - first;
    farthest = Math::magnitude(deviation) > farthest ? Math::magnitude(deviation) : farthest;
    shift += deviation;
  }
  for (int k = 1; k < sizes.unknown; ++k) other_shift += unknown(k) - other_first;
  shift *= sizes.one_in_normal;
  other_shift *= sizes.one_in_unknown;
  Value squares = shift * shift;
  for (int k = 1; k < sizes.normal; ++k) {
    const Value deviation = (normal(k) - first) - shift;
    squares = Math::multiply_add(deviation, deviation, squares);
  }
  // Squares below 2^-80 have lost digits to underflow, unless there was no deviation at all.
  trusted = (squares >= 0x1p-80f) | (farthest == 0.0f);

  EnsembleMaps<Value> maps;
  maps.inter = Math::magnitude((other_first - first) + (other_shift - shift));
  maps.intra = Math::root(squares * sizes.one_in_freedom);
  Value gap = sizes.image ? (image() - first) - shift : Value{};
  if (sizes.log_variance) {
    Value largest = log_variance(0);
    for (int k = 1; k < sizes.normal; ++k) {
      const Value next = log_variance(k);
      largest = next > largest ? next : largest;
    }
    trusted = trusted & (Math::magnitude(largest) < 160.0f);
    Value variance = Math::exponential(log_variance(0) - largest);
    for (int k = 1; k < sizes.normal; ++k) {
      variance += Math::exponential(log_variance(k) - largest);
    }
    const Value deviation = Math::root(variance * sizes.one_in_normal);
    const Value power = Math::exponential(Math::magnitude(largest) * -0.5f);
    const Value one = Value{} + 1.0f;
    const Value scale =
        (largest > 0.0f ? power : one) / (largest > 0.0f ? deviation : deviation * power);
    maps.inter *= scale;
    maps.intra *= scale;
    gap *= scale;
  }
  maps.reconstruction = gap * gap;
  trusted = trusted & (maps.inter + maps.intra + maps.reconstruction < HUGE_VALF);
  return maps;
}

struct EnsembleSide {
  const void* data;                     // null where absent
  int64_t member_stride, image_stride;  // in elements
};

// Plain data only, since each instruction set's kernel file sees it.
struct EnsembleJob {
  EnsembleSide unknown, normal, image, log_variance;
  int unknown_members, normal_members;
  DType dtype;             // of the inputs
  int64_t images, pixels;  // pixels of all channels; one image where all lie in one run
  void* out;
  int threads;
};

MEDAD_DECLARE_CPU(ensemble_discrepancy_cpu, (const EnsembleJob& job))
void ensemble_discrepancy_cuda(const EnsembleJob& job, const Launch& launch);

}  // namespace medad
