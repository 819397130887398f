// Checks of what a kernel is about to trust. The Python layer has checked before, with friendlier
// words; these hold for anybody who calls the extension directly.
#pragma once

#include <initializer_list>
#include <sstream>
#include <stdexcept>

#include "core/tensor_view.h"

#define MEDAD_CHECK(condition, message)                         \
  do {                                                          \
    if (!(condition)) {                                         \
      std::ostringstream medad_check_text;                      \
      medad_check_text << message << " (" << #condition << ")"; \
      throw std::invalid_argument(medad_check_text.str());      \
    }                                                           \
  } while (0)

namespace medad {

// Any strides.
inline void check_shape(const TensorView& tensor, const char* name, const int64_t* shape,
                        int dims) {
  MEDAD_CHECK(tensor.given(), name << ": a tensor expected");
  MEDAD_CHECK(tensor.dims == dims,
              name << ": wrong number of axes, " << dims << " expected, got " << tensor.dims);
  for (int d = 0; d < dims; ++d) {
    MEDAD_CHECK(tensor.shape[d] == shape[d], name << ": wrong shape, " << shape[d]
                                                  << " expected on axis " << d << ", got "
                                                  << tensor.shape[d]);
  }
  MEDAD_CHECK(tensor.data || tensor.numel() == 0, name << ": no memory");
}

inline void check_dtype(const TensorView& tensor, const char* name, DType dtype) {
  MEDAD_CHECK(tensor.dtype == dtype, name << ": wrong dtype, " << kDTypeNames[int(dtype)]
                                          << " expected, got " << kDTypeNames[int(tensor.dtype)]);
}

// The type and shape of another tensor, and any strides.
inline void check_like(const TensorView& tensor, const char* name, const TensorView& like) {
  check_shape(tensor, name, like.shape, like.dims);
  check_dtype(tensor, name, like.dtype);
}

// This type and shape, in one piece.
inline void check_tensor(const TensorView& tensor, const char* name, DType dtype,
                         std::initializer_list<int64_t> shape) {
  check_shape(tensor, name, shape.begin(), int(shape.size()));
  check_dtype(tensor, name, dtype);
  MEDAD_CHECK(tensor.is_contiguous(), name << ": contiguous expected");
}

}  // namespace medad
