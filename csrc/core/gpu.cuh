// What the .cu files build on: launches, their errors, spans and shared memory, for nvcc and for
// the emulation (csrc/emulation), with which the tests run the same kernels on a machine that has
// no GPU.
//
// Rules for a kernel: global memory comes in as Span<T>, made by span_of<T>(view), by
// span_of_extent<T>(data, extent) where only strides say how far it reaches, or as Argument<T>, a
// Span that no other argument overlaps; shared memory by MEDAD_SHARED(type, name, count) or
// MEDAD_DYNAMIC_SHARED(type, name); several elements at once by load_vector and store_vector; the
// launch by MEDAD_LAUNCH.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/check.h"
#include "core/half.h"
#include "core/tensor_view.h"

#ifdef MEDAD_EMULATION

#include "emulation/cuda_names.h"
#include "emulation/span.h"

namespace medad {

template <class T>
using Span = emulation::CheckedSpan<T>;
template <class T>
using Argument = Span<T>;

template <class T>
Span<T> span_of(const TensorView& view) {
  return {static_cast<T*>(view.data), view.numel()};
}

template <class T>
Span<T> span_of_extent(const void* data, int64_t extent) {
  return {static_cast<T*>(const_cast<void*>(data)), data == nullptr ? 0 : extent};
}

template <class Vector, class T>
Vector load_vector(const Span<T>& from, int64_t i) {
  Vector value;
  std::memcpy(&value, from.checked(i, sizeof(Vector) / sizeof(T), alignof(Vector)), sizeof value);
  return value;
}

template <class Vector, class T>
void store_vector(const Span<T>& to, int64_t i, const Vector& value) {
  std::memcpy(to.checked(i, sizeof(Vector) / sizeof(T), alignof(Vector)), &value, sizeof value);
}

template <class U, class T>
Span<U> span_cast(Span<T> span) {
  return span.template as<U>();
}

}  // namespace medad

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

#define MEDAD_SHARED(type, name, count)                                                 \
  static const char name##_key = 0;                                                     \
  const auto name##_memory =                                                            \
      ::medad::emulation::Scheduler::get().shared(&name##_key, sizeof(type) * (count)); \
  const ::medad::Span<type> name(static_cast<type*>(name##_memory.first),               \
                                 int64_t(name##_memory.second / sizeof(type)))
#define MEDAD_DYNAMIC_SHARED(type, name)                                            \
  const auto name##_memory = ::medad::emulation::Scheduler::get().dynamic_shared(); \
  const ::medad::Span<type> name(static_cast<type*>(name##_memory.first),           \
                                 int64_t(name##_memory.second / sizeof(type)))
#define MEDAD_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)             \
  ::medad::emulation::Scheduler::get().launch(grid, block, shared_bytes, stream, \
                                              [&] { kernel(__VA_ARGS__); })

#else

#include <cuda_runtime.h>

namespace medad {

template <class T>
using Span = T*;
template <class T>
using Argument = T* __restrict__;

template <class T>
T* span_of(const TensorView& view) {
  return static_cast<T*>(view.data);
}

template <class T>
T* span_of_extent(const void* data, int64_t) {
  return static_cast<T*>(const_cast<void*>(data));
}

// `from + i` must be aligned to the whole vector.
template <class Vector, class T>
__device__ __forceinline__ Vector load_vector(const T* from, int64_t i) {
  return *reinterpret_cast<const Vector*>(from + i);
}

template <class Vector, class T>
__device__ __forceinline__ void store_vector(T* to, int64_t i, const Vector& value) {
  *reinterpret_cast<Vector*>(to + i) = value;
}

template <class U, class T>
__device__ __forceinline__ U* span_cast(T* span) {
  return reinterpret_cast<U*>(span);
}

}  // namespace medad

#define MEDAD_SHARED(type, name, count) __shared__ alignas(16) type name[count]
#define MEDAD_DYNAMIC_SHARED(type, name)                 \
  extern __shared__ uint4 medad_dynamic_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(medad_dynamic_shared_memory)
// A kernel with template arguments goes in parentheses: MEDAD_LAUNCH((kernel<T, 4>), ...).
#define MEDAD_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                       \
  do {                                                                                     \
    kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__); \
    ::medad::cuda_check(cudaGetLastError(), #kernel " launch");                            \
  } while (0)

#endif

namespace medad {

inline void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Sets the current device and puts the caller's back: torch may be on another one.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    cuda_check(cudaGetDevice(&previous_), "reading the current device");
    if (device != previous_) cuda_check(cudaSetDevice(device), "choosing the device");
    changed_ = device != previous_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Lets a kernel be launched with this much dynamic shared memory.
template <class Kernel>
void allow_shared(Kernel kernel, int64_t bytes) {
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
             "asking for shared memory");
}

// What a block may have of it.
inline int shared_limit(int device) {
  int bytes = 0;
  cuda_check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "reading the device's shared memory");
  return bytes;
}

// A grid of so many blocks; `argument` is to blame where there are too many.
inline dim3 grid_of(int64_t blocks, const char* argument) {
  MEDAD_CHECK(blocks < int64_t(1) << 31, argument << ": fewer elements expected on the GPU");
  return dim3(unsigned(blocks));
}

// Four neighbours, moved at once where they fit in 16 bytes.
template <class T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Four {
  T value[4];
};

}  // namespace medad
