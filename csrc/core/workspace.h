// How threads share work on the CPU, and the memory they work in.
//
// For an op's CPU kernels only, like core/simd.h.
#pragma once

#include <cstddef>
#include <new>

#include "core/simd.h"

namespace medad::MEDAD_ISA {

MEDAD_INLINE int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
MEDAD_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MEDAD_INLINE int64_t bigger(int64_t a, int64_t b) { return a < b ? b : a; }

// Where share `part` of `parts` of `count` things begins.
MEDAD_INLINE int64_t part_begin(int64_t count, int64_t part, int64_t parts) {
  return count * part / parts;
}

// A thread's place among those that work on one thing together.
struct Team {
  int index, size;

  MEDAD_INLINE void barrier() const {
    if (size > 1) {
#pragma omp barrier
    }
  }
};

// Aligned memory for `elements` numbers, given back whatever happens.
template <class T>
struct Workspace {
  T* data;

  MEDAD_INLINE explicit Workspace(int64_t elements)
      : data(static_cast<T*>(
            ::operator new(std::size_t(elements) * sizeof(T), std::align_val_t(64)))) {}
  MEDAD_INLINE ~Workspace() { ::operator delete(data, std::align_val_t(64)); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
};

// Gives out parts of some memory, aligned like its beginning; of null it only counts them.
struct Parts {
  char* data;
  int64_t used = 0;

  template <class T>
  MEDAD_INLINE T* take(int64_t count) {
    T* part = data ? reinterpret_cast<T*>(data + used) : nullptr;
    used += round_up(count * int64_t(sizeof(T)), 64);
    return part;
  }
};

}  // namespace medad::MEDAD_ISA
