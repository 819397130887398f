// One vector register of floats or doubles of the instruction set that this file is compiled for.
//
// For an op's CPU kernels only: everything lives in the namespace of the instruction set and is
// forced inline, as core/cpu_level.h asks. Unaligned loads and stores; fma() rounds once where the
// processor can, twice in the baseline build.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef MEDAD_X86
#include <immintrin.h>
#endif

#include "core/half.h"

#ifndef MEDAD_ISA
#error "core/simd.h is for sources that are compiled once per instruction set"
#endif

#define MEDAD_INLINE __attribute__((always_inline)) inline

namespace medad::MEDAD_ISA {

#if defined(MEDAD_ISA_avx512)
constexpr int kVectorBytes = 64;
#elif defined(MEDAD_ISA_avx2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t integers __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t integers __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vector = typename VectorOf<T>::type;
using FloatVector = Vector<float>;
using DoubleVector = Vector<double>;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
MEDAD_INLINE Vector<T> load(const T* from) {
  Vector<T> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
MEDAD_INLINE void store(T* to, Vector<T> value) {
  __builtin_memcpy(to, &value, sizeof value);
}

template <class T>
MEDAD_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// MEDAD_PACKED(min, ps, a, b): an instruction on whole vectors by its name, where there are such.
#if defined(MEDAD_ISA_avx512)
#define MEDAD_PACKED(name, type, ...) _mm512_maskz_##name##_##type(-1, __VA_ARGS__)
#elif defined(MEDAD_ISA_avx2)
#define MEDAD_PACKED(name, type, ...) _mm256_##name##_##type(__VA_ARGS__)
#elif defined(MEDAD_X86)
#define MEDAD_PACKED(name, type, ...) _mm_##name##_##type(__VA_ARGS__)
#endif

#if defined(MEDAD_ISA_avx512)
MEDAD_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
  return FloatVector(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
}
MEDAD_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) {
  return DoubleVector(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#elif defined(MEDAD_ISA_avx2)
MEDAD_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
  return FloatVector(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
}
MEDAD_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) {
  return DoubleVector(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#else
MEDAD_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return a * b + c; }
MEDAD_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return a * b + c; }
#endif

// The larger of each pair; the first where the second is NaN.
template <class V>
MEDAD_INLINE V larger(V a, V b) {
  return b > a ? b : a;
}

template <class T>
MEDAD_INLINE T horizontal_max(Vector<T> v) {
  T result = v[0];
  for (int i = 1; i < kLanes<T>; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

template <class T>
MEDAD_INLINE T horizontal_sum(Vector<T> v) {
  T part[kLanes<T>];
  store<T>(part, v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

// e^x for x <= 0 within 2 units in the last place; 0 below -87.3; NaN stays NaN.
MEDAD_INLINE FloatVector exp_of_negative(FloatVector x) {
  const FloatVector lowest = broadcast(-87.33654f);
  const auto too_low = x < lowest;
  x = too_low ? lowest : x;
  const FloatVector magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const FloatVector shifted = fma(x, broadcast(1.44269504f), magic);
  const FloatVector n = shifted - magic;
  FloatVector r = fma(n, broadcast(-0.693145752f), x);  // ln 2 in two parts
  r = fma(n, broadcast(-1.42860677e-6f), r);
  FloatVector p = broadcast(1.9875691500e-4f);  // the coefficients of Cephes' expf
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  using Integers = VectorOf<float>::integers;
  const Integers exponent = (Integers(shifted) - Integers(magic) + 127) << 23;
  return too_low ? FloatVector{} : p * FloatVector(exponent);
}

MEDAD_INLINE DoubleVector exp_of_negative(DoubleVector x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// Elements of any floating type in and out of vectors, whole ones and their ends.
MEDAD_INLINE FloatVector widen(const float* from) { return load<float>(from); }
MEDAD_INLINE DoubleVector widen(const double* from) { return load<double>(from); }

MEDAD_INLINE FloatVector widen(const BFloat16* from) {
  typedef uint16_t Bits __attribute__((vector_size(2 * kLanes<float>)));
  typedef uint32_t Words __attribute__((vector_size(4 * kLanes<float>)));
  Bits bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return FloatVector(__builtin_convertvector(bits, Words) << 16);
}

MEDAD_INLINE FloatVector widen(const Half* from) {
#if defined(MEDAD_ISA_avx512)
  __m256i bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return FloatVector(_mm512_maskz_cvtph_ps(0xffff, bits));
#elif defined(MEDAD_ISA_avx2)
  __m128i bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return FloatVector(_mm256_cvtph_ps(bits));
#else
  float value[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) value[i] = to_float(from[i]);
  return load<float>(value);
#endif
}

template <class T>
using real_of = typename Compute<T>::type;

// The first `count` elements of a vector (kWhole: all), the others 0.
template <bool kWhole, class T>
MEDAD_INLINE Vector<real_of<T>> read(const T* from, int64_t count) {
  if constexpr (kWhole) {
    return widen(from);
  } else {
    T some[kLanes<real_of<T>>] = {};
    for (int i = 0; i < count; ++i) some[i] = from[i];
    return widen(some);
  }
}

template <bool kWhole, class R>
MEDAD_INLINE void write(R* to, int64_t count, Vector<R> value) {
  __builtin_memcpy(to, &value, kWhole ? sizeof value : size_t(count) * sizeof(R));
}

}  // namespace medad::MEDAD_ISA
