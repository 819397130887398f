// The names of CUDA C++ that the kernels use, for an ordinary C++ compiler.
//
// There is no __shared__: shared memory goes through MEDAD_SHARED and MEDAD_DYNAMIC_SHARED
// (core/gpu.cuh), which are poisoned and bounds-checked here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulation/scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

using dim3 = ::medad::emulation::Index3;
#define threadIdx (::medad::emulation::Scheduler::get().thread_index)
#define blockIdx (::medad::emulation::Scheduler::get().block_index)
#define blockDim (::medad::emulation::Scheduler::get().block_size)
#define gridDim (::medad::emulation::Scheduler::get().grid_size)

#define MEDAD_EMULATION_TEXT_(x) #x
#define MEDAD_EMULATION_TEXT(x) MEDAD_EMULATION_TEXT_(x)
#define MEDAD_EMULATION_PLACE __FILE__ ":" MEDAD_EMULATION_TEXT(__LINE__)

namespace medad::emulation {

template <class T>
LaneWords to_words(const T& value) {
  static_assert(sizeof(T) <= sizeof(LaneWords));
  LaneWords words{};
  std::memcpy(&words, &value, sizeof value);
  return words;
}

template <class T>
T from_words(const LaneWords& words) {
  T value;
  std::memcpy(&value, &words, sizeof value);
  return value;
}

inline int lane() {
  const Scheduler& s = Scheduler::get();
  return (s.thread_index.x +
          s.block_size.x * (s.thread_index.y + s.block_size.y * s.thread_index.z)) %
         kWarp;
}

template <class T>
T shuffle(unsigned mask, T value, int source, int width, const char* place) {
  const int first = lane() / width * width;
  const LaneWords* all = Scheduler::get().exchange(mask, to_words(value), place);
  if (source < first || source >= first + width) return value;
  if (!(mask >> source & 1)) Scheduler::get().fail("a shuffle from outside the mask", place);
  return from_words<T>(all[source]);
}

inline unsigned ballot(unsigned mask, bool vote, const char* place) {
  const LaneWords* all = Scheduler::get().exchange(mask, to_words<std::uint32_t>(vote), place);
  unsigned result = 0;
  for (int l = 0; l < kWarp; ++l) {
    if (mask >> l & 1) result |= unsigned(all[l].word[0] == 1) << l;
  }
  return result;
}

template <class T>
T shuffle_xor(unsigned mask, T value, int bits, int width, const char* place) {
  return shuffle(mask, value, lane() ^ bits, width, place);
}
template <class T>
T shuffle_down(unsigned mask, T value, int delta, int width, const char* place) {
  return shuffle(mask, value, lane() + delta, width, place);
}
template <class T>
T shuffle_up(unsigned mask, T value, int delta, int width, const char* place) {
  return shuffle(mask, value, lane() - delta, width, place);
}
template <class T>
T shuffle_from(unsigned mask, T value, int source, int width, const char* place) {
  return shuffle(mask, value, lane() / width * width + source % width, width, place);
}

// Arguments of the macros below that may be left out.
inline unsigned mask_or_warp() { return ~0u; }
inline unsigned mask_or_warp(unsigned mask) { return mask; }
inline int width_or_warp() { return kWarp; }
inline int width_or_warp(int width) { return width; }

}  // namespace medad::emulation

#define __syncthreads() ::medad::emulation::Scheduler::get().sync_threads(MEDAD_EMULATION_PLACE)
#define __syncwarp(...)                                                               \
  ((void)::medad::emulation::Scheduler::get().exchange(                               \
      ::medad::emulation::mask_or_warp(__VA_ARGS__), ::medad::emulation::to_words(0), \
      MEDAD_EMULATION_PLACE))
#define __shfl_sync(mask, value, source, ...) \
  ::medad::emulation::shuffle_from(           \
      mask, value, source, ::medad::emulation::width_or_warp(__VA_ARGS__), MEDAD_EMULATION_PLACE)
#define __shfl_xor_sync(mask, value, bits, ...) \
  ::medad::emulation::shuffle_xor(              \
      mask, value, bits, ::medad::emulation::width_or_warp(__VA_ARGS__), MEDAD_EMULATION_PLACE)
#define __shfl_down_sync(mask, value, delta, ...) \
  ::medad::emulation::shuffle_down(               \
      mask, value, delta, ::medad::emulation::width_or_warp(__VA_ARGS__), MEDAD_EMULATION_PLACE)
#define __shfl_up_sync(mask, value, delta, ...) \
  ::medad::emulation::shuffle_up(               \
      mask, value, delta, ::medad::emulation::width_or_warp(__VA_ARGS__), MEDAD_EMULATION_PLACE)
#define __ballot_sync(mask, vote) \
  ::medad::emulation::ballot(mask, (vote) != 0, MEDAD_EMULATION_PLACE)

// Blocks run one after another and threads change only at barriers: a plain update is atomic.
template <class T, class V>
T atomicAdd(T* address, V value) {
  static_assert(std::is_integral_v<T>, "float atomics would make results depend on the order");
  const T old = *address;
  *address = T(old + T(value));
  return old;
}
template <class T, class V>
T atomicMin(T* address, V value) {
  const T old = *address;
  if (T(value) < old) *address = T(value);
  return old;
}
template <class T, class V>
T atomicMax(T* address, V value) {
  const T old = *address;
  if (T(value) > old) *address = T(value);
  return old;
}
template <class T, class V>
T atomicOr(T* address, V value) {
  const T old = *address;
  *address = T(old | T(value));
  return old;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

// CUDA has these for every mix of arithmetic types.
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

// The few calls of the CUDA runtime that launchers may make. What waits for the GPU or takes memory
// is missing on purpose: a launcher that calls it does not compile here.
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = void*;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
inline const char* cudaGetErrorString(cudaError_t) { return "error of the emulation"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = ::medad::emulation::Scheduler::get().device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  ::medad::emulation::Scheduler::get().device = device;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return std::size_t(bytes) <= ::medad::emulation::kMaxSharedBytes ? cudaSuccess
                                                                   : cudaErrorInvalidValue;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = int(::medad::emulation::kMaxSharedBytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes,
                                   cudaStream_t stream) {
  ::medad::emulation::Scheduler::get().check_place(stream, "cudaMemsetAsync");
  std::memset(address, value, bytes);
  return cudaSuccess;
}
