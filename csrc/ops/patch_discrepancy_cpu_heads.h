// The distance of projected vectors: both sides of a block through a two-layer head, then compared.
//
// Bound by arithmetic: 2 (C D1 + D1 D2) flops a position and side. A block's vectors, hidden layer
// and projections (count x width each) stay in L2; weights are packed once a call into panels of
// kPanel rows, so the inner kernel reads both operands forward only. Nothing larger is ever stored.
//
// Included by patch_discrepancy_cpu.cpp only, once per instruction set.
#pragma once

namespace medad {
namespace MEDAD_ISA {
namespace {

#if defined(MEDAD_ISA_avx512)
constexpr int kPanel = 12;  // with 2 vectors: 24 of 32 registers hold sums
#elif defined(MEDAD_ISA_avx2)
constexpr int kPanel = 6;  // with 2 vectors: 12 of 16 registers hold sums
#else
constexpr int kPanel = 6;
#endif
constexpr int kHeadBlock = 64;  // positions: a multiple of two vectors of any kind

template <class R>
using Vector __attribute__((vector_size(kVectorBytes))) = R;

// Elements of `rows` x `depth` weights as panels: [panel][depth][kPanel], zeros below the last row.
inline int64_t packed_size(int64_t rows, int64_t depth) {
  return (rows + kPanel - 1) / kPanel * kPanel * depth;
}

template <class T>
inline void pack_panel(const T* weights, int64_t rows, int64_t depth, int64_t panel,
                       real_of<T>* packed) {
  real_of<T>* to = packed + panel * kPanel * depth;
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kPanel; ++r) {
      const int64_t row = panel * kPanel + r;
      to[k * kPanel + r] = row < rows ? to_real(weights[row * depth + k]) : real_of<T>(0);
    }
  }
}

// One panel of rows times 2 vectors of positions; `x` and `y` have rows of kHeadBlock positions.
template <class R, bool kRelu, class Bias>
inline void multiply_panel(const R* panel, int64_t depth, const R* x, const Bias* bias,
                           int64_t rows, R* y) {
  constexpr int kWidth = kLanes<R>;
  Vector<R> sum[kPanel][2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector<R> in[2];
    __builtin_memcpy(in, x + k * kHeadBlock, sizeof in);
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) {
      const Vector<R> weight = panel[k * kPanel + r] - Vector<R>{};
      sum[r][0] = multiply_add(weight, in[0], sum[r][0]);
      sum[r][1] = multiply_add(weight, in[1], sum[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kPanel; ++r) {
    if (r >= rows) break;
    const R shift = to_real(bias[r]);
    for (int v = 0; v < 2; ++v) {
      Vector<R> value = sum[r][v] + shift;
      // Written so that NaN stays NaN.
      if (kRelu) value = value < R(0) ? Vector<R>{} : value;
      __builtin_memcpy(y + r * kHeadBlock + v * kWidth, &value, sizeof value);
    }
  }
}

// y (rows, kHeadBlock) = packed weights (rows, depth) @ x (depth, kHeadBlock) + bias.
template <class R, bool kRelu, class Bias>
inline void linear(const R* packed, int64_t rows, int64_t depth, const R* x, const Bias* bias,
                   int64_t count, R* y) {
  for (int64_t i = 0; i < count; i += 2 * kLanes<R>) {
    for (int64_t row = 0; row < rows; row += kPanel) {
      multiply_panel<R, kRelu>(packed + row * depth, depth, x + i, bias + row, rows - row,
                               y + row * kHeadBlock + i);
    }
  }
}

// Scratch of one thread, in real numbers: the vectors, the hidden layer, and two projections.
inline int64_t head_scratch(const DiscrepancyLayer& layer) {
  return kHeadBlock * (layer.channels + layer.head.hidden + 2 * layer.head.projected);
}

template <class T>
inline void project(const Block& block, const DiscrepancySide& side, const real_of<T>* packed,
                    real_of<T>* scratch, real_of<T>* projected) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  const DiscrepancyHead& head = layer.head;
  R* x = scratch;
  R* hidden = x + kHeadBlock * layer.channels;
  pack<T>(block, side, 0, layer.channels, x, kHeadBlock);
  // Lanes past the block's end are computed too: from zeros, never from what was left there.
  for (int64_t c = 0; c < layer.channels; ++c) {
    for (int64_t i = block.count; i < kHeadBlock; ++i) x[c * kHeadBlock + i] = 0;
  }
  const T* b1 = static_cast<const T*>(head.b1);
  const T* b2 = static_cast<const T*>(head.b2);
  linear<R, true>(packed, head.hidden, layer.channels, x, b1, block.count, hidden);
  linear<R, false>(packed + packed_size(head.hidden, layer.channels), head.projected, head.hidden,
                   hidden, b2, block.count, projected);
}

template <class T>
inline void block_head_distance(const Block& block, const real_of<T>* packed, real_of<T>* scratch,
                                map_of<T>* out) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  R* a = scratch + kHeadBlock * (layer.channels + layer.head.hidden);
  R* b = a + kHeadBlock * layer.head.projected;
  project<T>(block, layer.features, packed, scratch, a);
  project<T>(block, layer.reconstructed, packed, scratch, b);
  // The projections are a block of their own: one image, rows of kHeadBlock positions.
  DiscrepancyLayer flat{};
  flat.features = {a, 0, kHeadBlock, 1, 1};
  flat.reconstructed = {b, 0, kHeadBlock, 1, 1};
  flat.channels = layer.head.projected;
  flat.height = 1;
  flat.width = block.count;
  block_distance<R>({&flat, 0, 0, block.count}, out);
}

}  // namespace
}  // namespace MEDAD_ISA
}  // namespace medad
