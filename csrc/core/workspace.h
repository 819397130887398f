// How threads share work on the CPU, and the memory they work in.
//
// For <op>_cpu.cpp only, like core/simd.h.
#pragma once

#include <cstdlib>
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

// Aligned memory for `elements` numbers.
template <class T>
struct Workspace {
  T* data;

  MEDAD_INLINE explicit Workspace(int64_t elements) {
    const std::size_t bytes = std::size_t(round_up(elements * int64_t(sizeof(T)), 64));
    data = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!data) throw std::bad_alloc();
  }
  MEDAD_INLINE ~Workspace() { std::free(data); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
};

}  // namespace medad::MEDAD_ISA
