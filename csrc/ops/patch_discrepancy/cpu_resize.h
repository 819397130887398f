// The bilinear resize of the layers' distances into the map, and its adjoint.
//
// Rows are resized along W first and then blended along H, so that the gather along W is done once
// per layer row and the rest is contiguous. The adjoint is formed by gathering in a fixed order.
//
// Included by patch_discrepancy_cpu.cpp only, once per instruction set.
#pragma once

namespace medad::MEDAD_ISA {
namespace {

// A layer's taps along W.
template <class M>
struct Columns {
  int32_t* first;
  int32_t* second;
  M* weight;  // of the second
};

template <class M>
inline void fill(const Columns<M>& columns, int64_t from, int64_t to) {
  for (int64_t x = 0; x < to; ++x) {
    const Tap tap = tap_of(x, from, to);
    columns.first[x] = int32_t(tap.first);
    columns.second[x] = int32_t(tap.second);
    columns.weight[x] = M(tap.weight);
  }
}

template <class M>
inline void resize_row(const M* from, const Columns<M>& columns, int64_t width, M* to) {
  for (int64_t x = 0; x < width; ++x) {
    const M left = from[columns.first[x]], right = from[columns.second[x]];
    to[x] = multiply_add(columns.weight[x], right - left, left);
  }
}

// Adds rows first .. last of one layer's resized distances to `out`, which starts at row `first`.
// `rows` has room for two resized rows.
template <class M>
inline void add_resized(const M* distances, const DiscrepancyLayer& layer,
                        const Columns<M>& columns, const DiscrepancyJob& job, int64_t first,
                        int64_t last, M* rows, M* out) {
  int64_t held[2] = {-1, -1};  // layer row y is kept in slot y % 2
  for (int64_t y = first; y < last; ++y) {
    const Tap tap = tap_of(y, layer.height, job.height);
    const int64_t wanted[2] = {tap.first, tap.second};
    for (int64_t row : wanted) {
      if (held[row % 2] == row) continue;
      resize_row(distances + row * layer.width, columns, job.width, rows + (row % 2) * job.width);
      held[row % 2] = row;
    }
    const M* above = rows + (tap.first % 2) * job.width;
    const M* below = rows + (tap.second % 2) * job.width;
    const M weight = M(tap.weight);
    M* to = out + (y - first) * job.width;
#pragma GCC ivdep
    for (int64_t x = 0; x < job.width; ++x) {
      to[x] += multiply_add(weight, below[x] - above[x], above[x]);
    }
  }
}

// Row `row` of a layer's share in the gradient of the map: the adjoint of add_resized. `sum` has
// room for one row of the map, `to` takes the layer's row.
template <class M>
inline void gather_row(const M* grad, const DiscrepancyLayer& layer, const Columns<M>& columns,
                       const DiscrepancyJob& job, int64_t row, M* sum, M* to) {
  for (int64_t x = 0; x < job.width; ++x) sum[x] = 0;
  // Rows of the map whose taps can reach this row: source coordinate within (row - 1, row + 1).
  int64_t y = ((2 * row - 1) * job.height) / (2 * layer.height) - 1;
  if (row <= 1 || y < 0) y = 0;
  for (; y < job.height; ++y) {
    const Tap tap = tap_of(y, layer.height, job.height);
    if (tap.first > row) break;
    double weight = tap.first == row ? 1 - tap.weight : 0;
    if (tap.second == row) weight += tap.weight;
    if (weight == 0 && tap.first != row && tap.second != row) continue;
    const M* from = grad + y * job.width;
    const M w = M(weight * job.scale);
#pragma GCC ivdep
    for (int64_t x = 0; x < job.width; ++x) sum[x] = multiply_add(w, from[x], sum[x]);
  }
  for (int64_t x = 0; x < layer.width; ++x) to[x] = 0;
  for (int64_t x = 0; x < job.width; ++x) {
    const M second = columns.weight[x] * sum[x];
    to[columns.first[x]] += sum[x] - second;
    to[columns.second[x]] += second;
  }
}

}  // namespace
}  // namespace medad::MEDAD_ISA
