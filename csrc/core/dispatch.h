// From a type known when the program runs to one known when it is compiled.
#pragma once

#include "core/half.h"
#include "core/tensor_view.h"

namespace medad {

inline bool is_floating(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

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
