// A tensor as the kernels see it: a pointer, a type, sizes and strides. Owns nothing.
#pragma once

#include <cstdint>

namespace medad {

// The codes are those of medad_fast/ops/_native.py, which reads them from _C.dtypes.
enum class DType : int { kFloat32, kFloat64, kFloat16, kBFloat16, kBool, kUInt8, kInt64 };
inline constexpr const char* kDTypeNames[] = {"float32", "float64", "float16", "bfloat16",
                                              "bool",    "uint8",   "int64"};

inline bool is_floating(DType dtype) { return dtype <= DType::kBFloat16; }
// What floating values are computed in, and what a map of them has.
inline DType compute_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

constexpr int kMaxDims = 6;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int dims = -1;  // none: the caller has given no tensor
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // in elements

  // Whether there is a tensor at all: an optional one is None in Python.
  bool given() const { return dims >= 0; }

  int64_t numel() const {
    int64_t n = given() ? 1 : 0;
    for (int d = 0; d < dims; ++d) n *= shape[d];
    return n;
  }

  // Axes of size one, and any axis of an empty tensor, may have any stride.
  bool is_contiguous() const {
    if (numel() == 0) return true;
    int64_t expected = 1;
    for (int d = dims - 1; d >= 0; --d) {
      if (shape[d] != 1 && strides[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }

  template <class T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
};

// Where a kernel runs.
struct Launch {
  int device;    // CUDA device index, or -1 for the CPU
  void* stream;  // the caller's CUDA stream; null on the CPU
  int threads;   // OpenMP threads on the CPU, at least 1: torch.get_num_threads() of this call

  bool on_cpu() const { return device < 0; }
};

}  // namespace medad
