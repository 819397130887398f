// The distance of projected vectors: both sides of a block through a two-layer head, then compared.
//
// Bound by arithmetic: 2 (C D1 + D1 D2) flops a position and side. A block's vectors, hidden layer
// and projections stay in L2, in panels of positions that the register tile reads front to back;
// weights are packed once a call. Nothing larger is ever stored.
//
// Included by patch_discrepancy_cpu.cpp only, once per instruction set.
#pragma once

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kHeadPanels =
    2;  // of kPanel<R> positions: a block that leaves L2 room for weights

template <class R>
constexpr int64_t kHeadBlock = kHeadPanels * kPanel<R>;

// Tiles of kTileRows rows of weights.
inline int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Elements of packed weights: tiles of kTileRows rows, [tile][depth][kTileRows], the last one
// padded.
inline int64_t packed_size(int64_t rows, int64_t depth) {
  return tiles_of(rows) * kTileRows * depth;
}

template <class T>
inline void pack_weights(const T* weights, int64_t rows, int64_t depth, int64_t tile,
                         real_of<T>* packed) {
  real_of<T>* to = packed + tile * kTileRows * depth;
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kTileRows; ++r) {
      const int64_t row = tile * kTileRows + r;
      to[k * kTileRows + r] = row < rows ? to_float(weights[row * depth + k]) : real_of<T>(0);
    }
  }
}

// y (rows, kPanel) = packed weights (rows, depth) @ x (depth, kPanel) + bias, below 0 cut off at 0.
template <bool kRelu, class R, class T>
inline void linear(const R* packed, int64_t rows, int64_t depth, const R* x, const T* bias, R* y) {
  for (int64_t row = 0; row < rows; row += kTileRows) {
    multiply_rows<R>(smaller(kTileRows, rows - row), packed + row * depth, 1, kTileRows, x, depth,
                     y + row * kPanel<R>, kPanel<R>, false);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const R shift = to_float(bias[row]);
    R* values = y + row * kPanel<R>;
    for (int i = 0; i < kPanel<R>; ++i) {
      // A sum over no inputs has written nothing.
      const R value = (depth > 0 ? values[i] : R(0)) + shift;
      values[i] = kRelu && value < 0 ? R(0) : value;  // NaN stays NaN
    }
  }
}

// Scratch of one thread, in real numbers: the vectors, one panel's hidden layer, two projections.
template <class R>
inline int64_t head_scratch(const DiscrepancyLayer& layer) {
  return kPanel<R> * (layer.channels + layer.head.hidden) + 2 * kPanel<R> * layer.head.projected;
}

// The projections (D2, kPanel) of one panel of positions.
template <class T>
inline void project(const Block& panel, const DiscrepancySide& side, const real_of<T>* packed,
                    real_of<T>* scratch, real_of<T>* projected) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *panel.layer;
  const DiscrepancyHead& head = layer.head;
  R* x = scratch;
  R* hidden = x + kPanel<R> * layer.channels;
  pack<T>(panel, side, 0, layer.channels, x, kPanel<R>);
  // Lanes past the end are computed too: from zeros, never from what was left there.
  for (int64_t c = 0; c < layer.channels; ++c) {
    for (int64_t i = panel.count; i < kPanel<R>; ++i) x[c * kPanel<R> + i] = 0;
  }
  linear<true>(packed, head.hidden, layer.channels, x, static_cast<const T*>(head.b1), hidden);
  linear<false>(packed + packed_size(head.hidden, layer.channels), head.projected, head.hidden,
                hidden, static_cast<const T*>(head.b2), projected);
}

template <class T>
inline void block_head_distance(const Block& block, const real_of<T>* packed, real_of<T>* scratch,
                                map_of<T>* out) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  R* a = scratch + kPanel<R> * (layer.channels + layer.head.hidden);
  R* b = a + kPanel<R> * layer.head.projected;
  for (int64_t first = 0; first < block.count; first += kPanel<R>) {
    const Block panel = {block.layer, block.image, block.first + first,
                         smaller(kPanel<R>, block.count - first)};
    project<T>(panel, layer.features, packed, scratch, a);
    project<T>(panel, layer.reconstructed, packed, scratch, b);
    // The projections are a layer of their own: one image, one row of positions.
    DiscrepancyLayer flat{};
    flat.features = {a, 0, kPanel<R>, 1, 1};
    flat.reconstructed = {b, 0, kPanel<R>, 1, 1};
    flat.channels = layer.head.projected;
    flat.height = 1;
    flat.width = panel.count;
    block_distance<R>({&flat, 0, 0, panel.count}, out + first);
  }
}

}  // namespace
}  // namespace medad::MEDAD_ISA
