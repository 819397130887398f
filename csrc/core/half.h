// The two 16-bit float formats, bit for bit, for kernels that compute in float32: host and device.
// Conversions on the device are the instructions themselves: CUDA's headers of these formats take
// longer to compile than some kernels.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
MEDAD_HD To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
MEDAD_HD uint32_t float_bits(float x) { return bits_as<uint32_t>(x); }
MEDAD_HD float float_from_bits(uint32_t bits) { return bits_as<float>(bits); }

MEDAD_HD float to_float(float x) { return x; }
MEDAD_HD double to_float(double x) { return x; }
MEDAD_HD float to_float(BFloat16 x) { return float_from_bits(uint32_t(x.bits) << 16); }

MEDAD_HD float to_float(Half x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  // Exponent and mantissa move to their places; the product with 2^112 rescales the exponent and
  // turns subnormal halves into normal floats.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
  const float scaled = float_from_bits(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u | magnitude : float_bits(scaled);
  return float_from_bits(special | uint32_t(x.bits & 0x8000) << 16);
#endif
}

// From float32 (or float64), rounded to nearest even; NaN stays NaN.
template <class T>
MEDAD_HD T from_float(float x);

template <>
MEDAD_HD float from_float<float>(float x) {
  return x;
}

template <>
MEDAD_HD BFloat16 from_float<BFloat16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  BFloat16 value;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
  return value;
#else
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return {uint16_t(x != x ? bits >> 16 | 0x40u : rounded)};
#endif
}

template <>
MEDAD_HD Half from_float<Half>(float x) {
#ifdef __CUDA_ARCH__
  Half value;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
  return value;
#else
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    result = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to the subnormal step
    result = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    result = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
  }
  return {uint16_t(result | sign)};
#endif
}

template <class T>
MEDAD_HD T from_float(double x) {
  return from_float<T>(float(x));
}
template <>
MEDAD_HD double from_float<double>(double x) {
  return x;
}

// What a kernel computes in for elements of type T.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

// Calls `visit` with a zero of the floating type. Static and forced inline, since the sources that
// are compiled once per instruction set use it too (core/cpu_level.h says what they must not
// share).
template <class Visit>
static inline __attribute__((always_inline)) void with_floating_type(DType dtype, Visit visit) {
  if (dtype == DType::kFloat64) {
    visit(double());
  } else if (dtype == DType::kFloat16) {
    visit(Half());
  } else if (dtype == DType::kBFloat16) {
    visit(BFloat16());
  } else {
    visit(float());
  }
}

}  // namespace medad
