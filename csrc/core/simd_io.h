// Elements of any floating type in and out of vector registers, whole vectors and their ends.
//
// For <op>_cpu.cpp only, like core/simd.h.
#pragma once

#include "core/half.h"
#include "core/simd.h"

namespace medad::MEDAD_ISA {

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
