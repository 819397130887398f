// Small matrix products on the CPU: packed panels and the register tile that multiplies them.
//
// A panel holds kPanel columns, element (k, c) at k * kPanel + c, so that the tile reads it front
// to back. For an op's CPU kernels only, like core/simd.h.
#pragma once

#include "core/simd.h"

namespace medad::MEDAD_ISA {

template <class T>
constexpr int kPanel = 2 * kLanes<T>;

// Rows of the register tile: two accumulators each, beside the two vectors of the panel and one
// broadcast; 32 vector registers with AVX-512, 16 without.
#ifdef MEDAD_ISA_avx512
constexpr int kTileRows = 14;
#else
constexpr int kTileRows = 6;
#endif

// Products are summed in runs of this length: shorter sums, smaller rounding errors.
constexpr int64_t kRun = 64;

// c[i][0..kPanel) = (add ? c : 0) + sum over k of a[i * row_step + k * depth_step] * panel[k].
template <class T, int kRows>
void multiply_tile(const T* a, int64_t row_step, int64_t depth_step, const T* panel, int64_t depth,
                   T* c, int64_t c_step, bool add) {
  constexpr int kWidth = kLanes<T>;
  for (int64_t done = 0; done < depth; done += kRun) {
    const int64_t run = depth - done < kRun ? depth - done : kRun;
    Vector<T> sum[kRows][2] = {};
    for (int64_t k = 0; k < run; ++k) {
      const Vector<T> left = load<T>(panel), right = load<T>(panel + kWidth);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Vector<T> factor = broadcast(a[i * row_step]);
        sum[i][0] = fma(factor, left, sum[i][0]);
        sum[i][1] = fma(factor, right, sum[i][1]);
      }
      a += depth_step;
      panel += 2 * kWidth;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      T* to = c + i * c_step;
      if (add || done > 0) {
        sum[i][0] += load<T>(to);
        sum[i][1] += load<T>(to + kWidth);
      }
      store<T>(to, sum[i][0]);
      store<T>(to + kWidth, sum[i][1]);
    }
  }
}

// The same for any number of rows up to kTileRows.
template <class T, int kRows = kTileRows>
MEDAD_INLINE void multiply_rows(int64_t rows, const T* a, int64_t row_step, int64_t depth_step,
                                const T* panel, int64_t depth, T* c, int64_t c_step, bool add) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      multiply_tile<T, kRows>(a, row_step, depth_step, panel, depth, c, c_step, add);
    } else {
      multiply_rows<T, kRows - 1>(rows, a, row_step, depth_step, panel, depth, c, c_step, add);
    }
  }
}

// c (rows x depth) += or = a times `wide` panels; the last panel may stick out of c.
template <class T>
void multiply_wide(int64_t rows, const T* a, int64_t row_step, int64_t depth_step, const T* panels,
                   int64_t depth, T* c, int64_t width, bool add) {
  for (int64_t first = 0; first < width; first += kPanel<T>, panels += depth * kPanel<T>) {
    const int64_t columns = width - first < kPanel<T> ? width - first : kPanel<T>;
    if (columns == kPanel<T>) {
      multiply_rows<T>(rows, a, row_step, depth_step, panels, depth, c + first, width, add);
      continue;
    }
    T edge[kTileRows * kPanel<T>] = {};
    for (int64_t i = 0; add && i < rows; ++i) {
      for (int64_t d = 0; d < columns; ++d) edge[i * kPanel<T> + d] = c[i * width + first + d];
    }
    multiply_rows<T>(rows, a, row_step, depth_step, panels, depth, edge, kPanel<T>, add);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t d = 0; d < columns; ++d) c[i * width + first + d] = edge[i * kPanel<T> + d];
    }
  }
}

// panel[k][c] = matrix[k][c] for c < columns, else 0.
template <class T>
MEDAD_INLINE void pack_panel(const T* matrix, int64_t step, int64_t depth, int64_t columns,
                             T* panel) {
  constexpr int kWidth = kLanes<T>;
  for (int64_t k = 0; k < depth; ++k, matrix += step, panel += kPanel<T>) {
    if (columns >= kPanel<T>) {
      store<T>(panel, load<T>(matrix));
      store<T>(panel + kWidth, load<T>(matrix + kWidth));
    } else {
      for (int64_t c = 0; c < kPanel<T>; ++c) panel[c] = c < columns ? matrix[c] : T(0);
    }
  }
}

// kLanes x kLanes elements, rows for columns: log2(kLanes) riffles of all rows.
template <class T>
MEDAD_INLINE void transpose_square(const T* from, int64_t from_step, T* to, int64_t to_step) {
  constexpr int kWidth = kLanes<T>;
  using Integers = typename VectorOf<T>::integers;
  Integers low, high;
  for (int i = 0; i < kWidth; ++i) {
    low[i] = i / 2 + (i % 2) * kWidth;
    high[i] = kWidth / 2 + i / 2 + (i % 2) * kWidth;
  }
  Vector<T> row[kWidth], next[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) row[i] = load<T>(from + i * from_step);
#pragma GCC unroll 4
  for (int round = 1; round < kWidth; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = __builtin_shuffle(row[i], row[i + kWidth / 2], low);
      next[2 * i + 1] = __builtin_shuffle(row[i], row[i + kWidth / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) row[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) store<T>(to + i * to_step, row[i]);
}

// panel[k][c] = matrix[c][k] for c < columns, else 0.
template <class T>
MEDAD_INLINE void pack_panel_transposed(const T* matrix, int64_t step, int64_t depth,
                                        int64_t columns, T* panel) {
  constexpr int kWidth = kLanes<T>;
  const int64_t square = columns >= kPanel<T> ? depth / kWidth * kWidth : 0;
  for (int64_t k = 0; k < square; k += kWidth) {
    for (int c = 0; c < kPanel<T>; c += kWidth) {
      transpose_square<T>(matrix + c * step + k, step, panel + k * kPanel<T> + c, kPanel<T>);
    }
  }
  for (int64_t k = square; k < depth; ++k) {
    for (int64_t c = 0; c < kPanel<T>; ++c) {
      panel[k * kPanel<T> + c] = c < columns ? matrix[c * step + k] : T(0);
    }
  }
}

}  // namespace medad::MEDAD_ISA
