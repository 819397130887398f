// What NT-Xent does row by row on the CPU: lengths before the tiles, sums and gradients after them.
#pragma once

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/nt_xent_loss/nt_xent_loss.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kStep = kBlock + 16;  // of a tile's rows: a power of two would share cache sets
constexpr int64_t kTileElements = kBlock * kStep;

template <class T>
struct Job {
  const T* z[2];
  T* gradient;
  int64_t pairs, rows, depth, blocks, wide;
  T inverse_temperature;
  bool own_tops;    // exp((s - 1) / T) could underflow: each row gets a top of its own
  bool keep_tiles;  // of exponentials, from the first pass to the second

  T *units, *across, *panels;  // (N, D), and packed along either side
  T *largest, *root, *top, *positive, *weight, *pull, *tiles;
  double *others, *losses;
  int64_t* taken;  // tiles of each round of each pass

  MEDAD_INLINE int64_t first_row(int64_t block) const { return block * kBlock; }
  MEDAD_INLINE int64_t rows_of(int64_t block) const {
    return smaller(kBlock, rows - block * kBlock);
  }
  MEDAD_INLINE int64_t partner(int64_t row) const {
    return row < pairs ? row + pairs : row - pairs;
  }
};

struct Tile {
  int64_t i, j;  // blocks, i <= j
  int64_t first_row, first_column, rows, columns;

  MEDAD_INLINE bool diagonal() const { return i == j; }
};

// units = z / |z| by way of z / largest, which neither overflows nor underflows.
template <class T>
MEDAD_INLINE void normalise_row(const Job<T>& job, int64_t row) {
  constexpr int kWidth = kLanes<T>;
  const int64_t depth = job.depth, whole = depth / kWidth * kWidth;
  const T* z = row < job.pairs ? job.z[0] + row * depth : job.z[1] + (row - job.pairs) * depth;
  T* unit = job.units + row * depth;
  Vector<T> tops = {};
  for (int64_t d = 0; d < whole; d += kWidth) {
    const Vector<T> v = load<T>(z + d);
    tops = larger(tops, v < 0 ? -v : v);
  }
  T top = horizontal_max<T>(tops);
  for (int64_t d = whole; d < depth; ++d) {
    const T v = z[d] < 0 ? -z[d] : z[d];
    top = v > top ? v : top;
  }
  if (top == 0) top = 1;

  Vector<T> squares = {};
  for (int64_t d = 0; d < whole; d += kWidth) {
    const Vector<T> v = load<T>(z + d) / broadcast(top);
    store<T>(unit + d, v);
    squares = fma(v, v, squares);
  }
  T square = horizontal_sum<T>(squares);
  for (int64_t d = whole; d < depth; ++d) {
    unit[d] = z[d] / top;
    square += unit[d] * unit[d];
  }
  const T root = square == 0 ? T(1) : T(__builtin_sqrt(double(square)));
  for (int64_t d = 0; d < whole; d += kWidth) {
    store<T>(unit + d, load<T>(unit + d) / broadcast(root));
  }
  for (int64_t d = whole; d < depth; ++d) unit[d] /= root;
  job.largest[row] = top;
  job.root[row] = root;
}

template <class T>
void prepare_block(const Job<T>& job, int64_t block) {
  const int64_t first = job.first_row(block), rows = job.rows_of(block), depth = job.depth;
  for (int64_t row = first; row < first + rows; ++row) {
    normalise_row(job, row);
    job.top[row] = job.own_tops ? -T(__builtin_inf()) : T(1);
    job.others[row] = 0;
  }
  const T* units = job.units + first * depth;
  for (int64_t c = 0; c < rows; c += kPanel<T>) {
    pack_panel_transposed<T>(units + c * depth, depth, depth, rows - c,
                             job.across + (first + c) * depth);
  }
  if (!job.gradient) return;
  for (int64_t d = 0; d < depth; d += kPanel<T>) {
    pack_panel<T>(units + d, depth, rows, depth - d, job.panels + first * job.wide + d * rows);
  }
}

template <class T>
void finish_sums(const Job<T>& job, int64_t block) {
  const int64_t first = job.first_row(block);
  for (int64_t row = first; row < first + job.rows_of(block); ++row) {
    const double distance =
        double(job.positive[row] - job.top[row]) * double(job.inverse_temperature);
    const double others = job.others[row], sum = __builtin_exp(distance) + others;
    const double scale = double(job.inverse_temperature) / (sum * double(job.rows));
    job.losses[row] = nt_xent_row_loss(others, distance);
    job.weight[row] = T(scale);
    job.pull[row] = T(others * scale);
  }
}

// dz from du.
template <class T>
void finish_gradients(const Job<T>& job, int64_t block) {
  constexpr int kWidth = kLanes<T>;
  const int64_t depth = job.depth, whole = depth / kWidth * kWidth, first = job.first_row(block);
  for (int64_t row = first; row < first + job.rows_of(block); ++row) {
    const T* unit = job.units + row * depth;
    T* gradient = job.gradient + row * depth;
    Vector<T> sums = {};
    for (int64_t d = 0; d < whole; d += kWidth) {
      sums = fma(load<T>(unit + d), load<T>(gradient + d), sums);
    }
    T along = horizontal_sum<T>(sums);
    for (int64_t d = whole; d < depth; ++d) along += unit[d] * gradient[d];
    const Vector<T> root = broadcast(job.root[row]), largest = broadcast(job.largest[row]);
    for (int64_t d = 0; d < whole; d += kWidth) {
      const Vector<T> across = load<T>(gradient + d) - load<T>(unit + d) * broadcast(along);
      store<T>(gradient + d, across / root / largest);
    }
    for (int64_t d = whole; d < depth; ++d) {
      gradient[d] = (gradient[d] - unit[d] * along) / job.root[row] / job.largest[row];
    }
  }
}

}  // namespace
}  // namespace medad::MEDAD_ISA
