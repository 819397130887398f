// The window along one axis, and the rows of fields that a task keeps.
#pragma once

#include "ops/ssim/cpu_strip.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kStep = 4;  // rows, or registers of a row, that are worked on at once

// Memory of one thread, for strips of up to `vectors` registers a row. Rings hold as many rows as a
// step reaches: 2 radius + kStep.
template <class C>
struct Fields {
  int64_t radius, ring_rows;
  int64_t padded;      // registers of a row, rounded up: to_lanes and steps write that many
  int64_t with_halo;   // the same and the halo
  C* natural[2];       // rows in the image's order
  C* input[2];         // ring: centred sum, difference
  C* blurred;          // [kStep][4][with_halo]: the moments, blurred along the columns
  C* partials;         // [4][with_halo]: derivatives along a row, halo first
  C* spread;           // ring [4 fields][ring_rows][padded]: the same, blurred along the row
  C* line[2 * kStep];  // results on their way back into the image's order
  C* upstream;         // a row of what comes in
  C* inside;           // [padded] 1 where a register's lanes are places of the map, else 0
  C* own;              // and where the strip answers for them
  int64_t* offsets;    // of the rows of a ring, 2 radius + kStep of them

  // Bytes of it all; assigns the pointers where `memory` is not null.
  int64_t plan(int64_t vectors, int64_t window_radius, char* memory) {
    radius = window_radius;
    ring_rows = 2 * radius + kStep;
    padded = round_up(vectors, bigger(kLanes<C>, kStep));
    with_halo = padded + 2 * radius;
    int64_t used = 0;
    const auto take = [&](auto*& pointer, int64_t count) {
      if (memory != nullptr) pointer = reinterpret_cast<decltype(pointer + 0)>(memory + used);
      used += round_up(count * int64_t(sizeof *pointer), 64);
    };
    const int64_t natural_size = (padded + 1) * kLanes<C>;
    for (C*& row : natural) take(row, natural_size);
    for (C*& ring : input) take(ring, ring_rows * padded * kLanes<C>);
    take(blurred, kStep * 4 * with_halo * kLanes<C>);
    take(partials, 4 * with_halo * kLanes<C>);
    take(spread, 4 * ring_rows * padded * kLanes<C>);
    for (C*& row : line) take(row, padded * kLanes<C>);
    take(upstream, padded * kLanes<C>);
    take(inside, padded * kLanes<C>);
    take(own, padded * kLanes<C>);
    take(offsets, ring_rows);
    return used;
  }

  // Where a ring has a row of the padded image; as much as a turn above it is meant too.
  int64_t offset(int64_t row) const { return (row + ring_rows) % ring_rows * padded * kLanes<C>; }
  void find_rows(int64_t first) const {
    for (int64_t i = 0; i < ring_rows; ++i) offsets[i] = offset(first + i);
  }
  C* input_row(int field, int64_t row) const { return input[field] + offset(row); }
  C* spread_ring(int field) const { return spread + field * ring_rows * padded * kLanes<C>; }
  C* blurred_row(int row, int field) const {
    return blurred + (row * 4 + field) * with_halo * kLanes<C>;
  }
  C* partials_row(int field) const { return partials + field * with_halo * kLanes<C>; }
};

// The window, one register a weight.
template <class C>
struct Window {
  const double* weight;
  int64_t radius;

  MEDAD_INLINE Vector<C> operator[](int64_t k) const { return broadcast(C(weight[k])); }
};

// The weighted sum around `middle` of at(middle - radius) .. at(middle + radius).
template <int kRadius, class C, class At>
MEDAD_INLINE Vector<C> weigh(const Window<C>& window, int64_t middle, At at) {
  Vector<C> sum = window[0] * at(middle);
  if constexpr (kRadius > 0) {
#pragma GCC unroll 16
    for (int k = 1; k <= kRadius; ++k) {
      sum = fma(window[k], at(middle - k) + at(middle + k), sum);
    }
  } else {
    for (int64_t k = 1; k <= window.radius; ++k) {
      sum = fma(window[k], at(middle - k) + at(middle + k), sum);
    }
  }
  return sum;
}

// visit(o, sum) with the weighted sums around at(o + radius) for o < kStep.
template <int kRadius, class C, class At, class Visit>
MEDAD_INLINE void weigh_step(const Window<C>& window, At at, Visit visit) {
  if constexpr (kRadius > 0) {
    Vector<C> value[2 * kRadius + kStep];
#pragma GCC unroll 32
    for (int i = 0; i < 2 * kRadius + kStep; ++i) value[i] = at(i);
#pragma GCC unroll 8
    for (int o = 0; o < kStep; ++o) {
      visit(o, weigh<kRadius>(window, o + kRadius, [&](int64_t i) { return value[i]; }));
    }
  } else {
    for (int o = 0; o < kStep; ++o) {
      visit(o, weigh<0>(window, o + window.radius, at));
    }
  }
}

}  // namespace
}  // namespace medad::MEDAD_ISA
