// What NT-Xent does with a tile of similarities on the CPU.
#pragma once

#include "ops/nt_xent_loss/cpu_rows.h"

namespace medad::MEDAD_ISA {
namespace {

// The similarities of a tile. A row with itself, with its positive (which is noted) and with the
// padding get -inf, whose exponential is nothing.
template <class T>
void similarities(const Job<T>& job, const Tile& at, T* tile) {
  const int64_t depth = job.depth, width = round_up(at.columns, kPanel<T>);
  const int64_t parts = (at.rows + kTileRows - 1) / kTileRows;
  for (int64_t c = 0; c < width; c += kPanel<T>) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_begin(at.rows, part, parts);
      multiply_rows<T>(part_begin(at.rows, part + 1, parts) - row,
                       job.units + (at.first_row + row) * depth, depth, 1,
                       job.across + (at.first_column + c) * depth, depth, tile + row * kStep + c,
                       kStep, false);
    }
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    if (at.diagonal()) row[r] = -T(__builtin_inf());
    const int64_t i = at.first_row + r, p = job.partner(i), c = p - at.first_column;
    if (c >= 0 && c < at.columns) {
      job.positive[i] = job.positive[p] = row[c];
      row[c] = -T(__builtin_inf());
    }
    for (int64_t d = at.columns; d < width; ++d) row[d] = -T(__builtin_inf());
  }
}

// Where tops are each row's own: the largest similarity, the positive's included.
template <class T>
void raise_tops(const Job<T>& job, const Tile& at, T* tile) {
  const auto raise = [&](int64_t row, T value) {
    if (value > job.top[row]) job.top[row] = value;
  };
  similarities(job, at, tile);
  for (int64_t r = 0; r < at.rows; ++r) {
    const int64_t i = at.first_row + r, c = job.partner(i) - at.first_column;
    if (c >= 0 && c < at.columns) {
      raise(i, job.positive[i]);
      raise(at.first_column + c, job.positive[i]);
    }
    for (int64_t d = 0; d < at.columns; ++d) {
      raise(i, tile[r * kStep + d]);
      if (!at.diagonal()) raise(at.first_column + d, tile[r * kStep + d]);
    }
  }
}

// Adds a tile's exponentials to the sums of its rows and, off the diagonal, of its columns.
template <class T, bool kOwnTops>
void add_exponentials(const Job<T>& job, const Tile& at, T* tile) {
  constexpr int kWidth = kLanes<T>;
  const int64_t width = round_up(at.columns, kPanel<T>);
  const Vector<T> scale = broadcast(job.inverse_temperature);
  similarities(job, at, tile);
  T columns[kBlock] = {}, tops[kBlock] = {};
  for (int64_t c = 0; kOwnTops && c < at.columns; ++c) tops[c] = job.top[at.first_column + c];
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    const Vector<T> top = broadcast(kOwnTops ? job.top[at.first_row + r] : T(1));
    Vector<T> sums = {};
    for (int64_t c = 0; c < width; c += kWidth) {
      const Vector<T> s = load<T>(row + c);
      const Vector<T> e = exp_of_negative((s - top) * scale);
      sums += e;
      if (kOwnTops) {
        const Vector<T> other = exp_of_negative((s - load<T>(tops + c)) * scale);
        store<T>(columns + c, load<T>(columns + c) + other);
      } else {
        store<T>(columns + c, load<T>(columns + c) + e);
        store<T>(row + c, e);
      }
    }
    job.others[at.first_row + r] += double(horizontal_sum<T>(sums));
  }
  if (at.diagonal()) return;
  for (int64_t c = 0; c < at.columns; ++c) job.others[at.first_column + c] += double(columns[c]);
}

// The tile's part of E + E^T, in place of its exponentials.
template <class T, bool kOwnTops>
void scale_exponentials(const Job<T>& job, const Tile& at, T* tile) {
  constexpr int kWidth = kLanes<T>;
  const int64_t width = round_up(at.columns, kPanel<T>);
  const Vector<T> scale = broadcast(job.inverse_temperature);
  if (!job.keep_tiles) similarities(job, at, tile);
  T weights[kBlock] = {}, tops[kBlock] = {};
  for (int64_t c = 0; c < at.columns; ++c) {
    weights[c] = job.weight[at.first_column + c];
    tops[c] = job.top[at.first_column + c];
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    const int64_t i = at.first_row + r, partner = job.partner(i) - at.first_column;
    const Vector<T> weight = broadcast(job.weight[i]), top = broadcast(job.top[i]);
    for (int64_t c = 0; c < width; c += kWidth) {
      const Vector<T> value = load<T>(row + c), other = load<T>(weights + c);
      if (kOwnTops) {
        const Vector<T> mine = exp_of_negative((value - top) * scale) * weight;
        store<T>(row + c, mine + exp_of_negative((value - load<T>(tops + c)) * scale) * other);
      } else {
        const Vector<T> e = job.keep_tiles ? value : exp_of_negative((value - top) * scale);
        store<T>(row + c, e * (weight + other));
      }
    }
    if (partner >= 0 && partner < at.columns) {
      row[partner] = -(job.pull[i] + job.pull[job.partner(i)]);
    }
  }
}

// Adds the tile's products to the gradients of its rows and, off the diagonal, of its columns.
template <class T>
void add_gradients(const Job<T>& job, const Tile& at, const T* tile, bool first) {
  const int64_t depth = job.depth;
  const auto panels = [&](int64_t row) { return job.panels + row * job.wide; };
  const auto add = [&](int64_t to, int64_t count, const T* factor, int64_t row_step,
                       int64_t depth_step, const T* wide, int64_t terms) {
    const int64_t parts = (count + kTileRows - 1) / kTileRows;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_begin(count, part, parts);
      multiply_wide<T>(part_begin(count, part + 1, parts) - row, factor + row * row_step, row_step,
                       depth_step, wide, terms, job.gradient + (to + row) * depth, depth, !first);
    }
  };
  add(at.first_row, at.rows, tile, kStep, 1, panels(at.first_column), at.columns);
  if (at.diagonal()) return;
  add(at.first_column, at.columns, tile, 1, kStep, panels(at.first_row), at.rows);
}

}  // namespace
}  // namespace medad::MEDAD_ISA
