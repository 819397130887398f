// The blurred shape of one image on the CPU: along the rows that differ, then down the columns.
//
// Three passes of a box blur each way, as running sums in integers: they cannot drift, so every
// instruction set and the GPU come to the same gate. kGroup lines go side by side: for the first
// passes those are rows (a transposed canvas), for the last ones columns. Bound by the passes down
// the columns: 3 x 13 vector operations for each 16 pixels.
//
// Included by cpu.cpp only.
#pragma once

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/anatomy_paste/anatomy_paste.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kGroup = 16;

template <class R>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};
template <>
struct IntegerOf<int32_t> {
  using real = float;
};
template <>
struct IntegerOf<int64_t> {
  using real = double;
};

// One pass in fixed point: the box average, rounded to the nearest value.
template <class R>
struct SmoothBlur {
  using Real = R;
  using Value = typename VectorOf<R>::integers;
  using Element = typename IntegerOf<R>::type;
  R part, inverse, unit;
  Element full;

  SmoothBlur(const PastePlan& plan) {
    const int bits = paste_bits<R>(plan.whole);
    part = R(plan.part);
    inverse = 1 / (R(2 * plan.whole + 1) + 2 * part);
    full = Element(1) << bits;
    unit = R(plan.opacity) / R(full);
  }
  MEDAD_INLINE Value box(Value sum, Value ends) const {
    const Vector<R> total = __builtin_convertvector(sum, Vector<R>) +
                            broadcast(part) * __builtin_convertvector(ends, Vector<R>);
    return __builtin_convertvector(total * broadcast(inverse) + broadcast(R(0.5)), Value);
  }
  MEDAD_INLINE R gate(Element value) const { return R(value) * unit; }
};

// The same as Pillow has it, in 8 bits.
struct PillowBlur {
  using Real = float;
  using Value = VectorOf<float>::integers;
  using Element = int32_t;
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  uint32_t inner, outer;
  Element full;

  PillowBlur(const PastePlan& plan)
      : inner(plan.inner), outer(plan.outer), full(Element(plan.opacity * 255 + 0.5)) {}
  MEDAD_INLINE Value box(Value sum, Value ends) const {
    return Value(pillow_box<Unsigned>(Unsigned(sum), Unsigned(ends), inner - Unsigned{},
                                      outer - Unsigned{}));
  }
  MEDAD_INLINE uint8_t gate(Element value) const { return uint8_t(value); }
};

// One pass over `count` positions of kGroup lines, their ends repeated beyond them.
template <class Blur>
void pass(const Blur& blur, int64_t whole, const typename Blur::Element* from,
          typename Blur::Element* to, int64_t count) {
  using Element = typename Blur::Element;
  using Value = typename Blur::Value;
  constexpr int kWidth = kVectorBytes / int(sizeof(Element));
  constexpr int kVectors = kGroup / kWidth;
  static_assert(kVectors * kWidth == kGroup);
  const int64_t last = count - 1;
  const auto at = [&](int64_t i, int v) {
    Value value;
    __builtin_memcpy(&value, from + i * kGroup + v * kWidth, sizeof value);
    return value;
  };
  Value sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    sum[v] = at(0, v) * Element(whole + 1) + at(last, v) * Element(bigger(whole - last, 0));
  }
  for (int64_t i = 1; i <= smaller(whole, last); ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] += at(i, v);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t enter = smaller(i + whole + 1, last);
    const int64_t before = bigger(i - whole - 1, 0), leave = bigger(i - whole, 0);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Value next = at(enter, v);
      const Value result = blur.box(sum[v], next + at(before, v));
      __builtin_memcpy(to + i * kGroup + v * kWidth, &result, sizeof result);
      sum[v] += next - at(leave, v);
    }
  }
}

// `buffer` holds 2 x count x kGroup; the lines are in its first half, and end up in the second.
template <class Blur>
typename Blur::Element* three_passes(const Blur& blur, const PastePlan& plan,
                                     typename Blur::Element* buffer, int64_t count) {
  typename Blur::Element* other = buffer + count * kGroup;
  if (plan.whole == 0 && plan.part == 0 && plan.outer == 0) return buffer;
  pass(blur, plan.whole, buffer, other, count);
  pass(blur, plan.whole, other, buffer, count);
  pass(blur, plan.whole, buffer, other, count);
  return other;
}

template <class Element>
MEDAD_INLINE void transpose_group(const Element* from, Element* to, int64_t to_step) {
  // Values are only moved: floats of the same size do.
  using R = typename IntegerOf<Element>::real;
  for (int i = 0; i < kGroup; i += kLanes<R>) {
    for (int j = 0; j < kGroup; j += kLanes<R>) {
      transpose_square<R>(reinterpret_cast<const R*>(from + i * kGroup + j), kGroup,
                          reinterpret_cast<R*>(to + j * to_step + i), to_step);
    }
  }
}

// Elements of scratch for images of this size, and for the rows of a transposed canvas.
MEDAD_INLINE int64_t padded(int64_t n) { return round_up(n, kGroup); }
MEDAD_INLINE int64_t gate_scratch(int64_t height, int64_t width) {
  return (padded(height) + kGroup) * padded(width) + 2 * kGroup * padded(bigger(height, width));
}

// Writes the gate, not yet masked, within the plan's bounds; `gate` is the image's own plane.
template <class Blur, class Gate>
void blur_shape(const PastePlan& plan, int64_t height, int64_t width,
                typename Blur::Element* scratch, Gate* gate) {
  using Element = typename Blur::Element;
  const Blur blur(plan);
  const int64_t columns = plan.right - plan.left, step = padded(width);
  Element* const blurred = scratch;  // a row for each distance from the centre
  Element* const buffer = scratch + (padded(height) + kGroup) * step;
  Element* const empty = blurred + padded(height) * step;  // the row outside the shape

  const PasteRows shape = paste_rows(plan);
  for (int64_t first = 0; first < shape.distances; first += kGroup) {
    for (int64_t i = 0; i < columns * kGroup; ++i) buffer[i] = 0;
    for (int line = 0; line < smaller(kGroup, shape.distances - first); ++line) {
      const PasteSpan span = paste_span(plan, shape.nearest + first + line);
      const int64_t end = smaller(span.end, plan.right) - plan.left;
      for (int64_t i = bigger(span.first - plan.left, 0); i < end; ++i) {
        buffer[i * kGroup + line] = blur.full;
      }
    }
    const Element* result = three_passes(blur, plan, buffer, columns);
    for (int64_t i = 0; i < columns; i += kGroup) {
      transpose_group(result + i * kGroup, blurred + first * step + i, step);
    }
  }
  for (int64_t i = 0; i < step; ++i) empty[i] = 0;

  const int64_t rows = plan.bottom - plan.top;
  for (int64_t column = 0; column < columns; column += kGroup) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t y = plan.top + row;
      const bool inside = shape.first <= y && y < shape.end;
      const Element* from =
          inside ? blurred + (paste_distance(plan, y) - shape.nearest) * step : empty;
      __builtin_memcpy(buffer + row * kGroup, from + column, kGroup * sizeof(Element));
    }
    const Element* result = three_passes(blur, plan, buffer, rows);
    const int64_t wide = smaller(kGroup, columns - column);
    for (int64_t row = 0; row < rows; ++row) {
      Gate* to = gate + (plan.top + row) * width + plan.left + column;
      if (wide == kGroup) {
        for (int i = 0; i < kGroup; ++i) to[i] = blur.gate(result[row * kGroup + i]);
      } else {
        for (int64_t i = 0; i < wide; ++i) to[i] = blur.gate(result[row * kGroup + i]);
      }
    }
  }
}

}  // namespace
}  // namespace medad::MEDAD_ISA
