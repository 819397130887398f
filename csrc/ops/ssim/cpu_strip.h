// What a task of ssim_cpu works on: a strip of columns, how its rows become registers and back, the
// rings of rows that are kept, and the window along one axis. Included by cpu.cpp only.
//
// A strip of `count` columns lies in registers so that neighbours are never in one register: lane l
// of register j holds column l * vectors + j. A shift by one column is then the next register, and
// the horizontal pass is the vertical one with another step. Only the last registers of a row need
// the first ones, turned by a lane.
#pragma once

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/ssim/ssim.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kStripColumns = 320;  // of the widest strip, halo included: rings stay in L2
constexpr int64_t kSamples = 8;         // a side, of the grid that the centre is chosen from

constexpr int kStep = 4;  // rows, or registers of a row, that are worked on at once

// Columns of the padded image that a strip answers for, and those it has to read.
struct Strip {
  int64_t own_first, own_last;
  int64_t first, count;
};

// How a plane is cut into strips: by its width and the window alone.
struct Strips {
  int64_t number, halo;
  int64_t columns;  // of the padded image

  explicit Strips(const SsimJob& job) : halo(2 * job.radius), columns(job.columns()) {
    const int64_t widest = bigger(kStripColumns, 8 * halo);
    number = columns <= widest ? 1 : (columns - 1) / (widest - 2 * halo) + 1;
  }
  Strip operator[](int64_t i) const {
    const int64_t own_first = columns * i / number, own_last = columns * (i + 1) / number;
    const int64_t first = bigger(0, own_first - halo);
    return {own_first, own_last, first, smaller(columns, own_last + halo) - first};
  }
  int64_t widest() const {
    int64_t result = 0;
    for (int64_t i = 0; i < number; ++i) result = bigger(result, (*this)[i].count);
    return result;
  }
};

template <class T>
MEDAD_INLINE T* plane_of(const SsimImages& images, int64_t plane, int64_t channels) {
  return static_cast<T*>(images.data) + plane / channels * images.strides[0] +
         plane % channels * images.strides[1];
}

// Twice a grey level from the middle of what the strip shows, to subtract from sums before they are
// squared: between the seventh smallest and the seventh largest of an 8 x 8 grid, so that neither
// a dark background nor a few bright pixels decide. Padding counts: it is blurred as well.
template <class T>
inline double centre_of(const SsimJob& job, const Strip& strip, int64_t plane) {
  const T* x = plane_of<const T>(job.x, plane, job.channels);
  const T* y = plane_of<const T>(job.y, plane, job.channels);
  double sample[kSamples * kSamples];
  int64_t count = 0;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t row = (2 * i + 1) * job.rows() / (2 * kSamples) - job.padding;
    for (int64_t j = 0; j < kSamples; ++j) {
      const int64_t column = strip.own_first - job.padding +
                             (2 * j + 1) * (strip.own_last - strip.own_first) / (2 * kSamples);
      double value = 0;
      if (row >= 0 && row < job.height && column >= 0 && column < job.width) {
        value = double(to_float(x[row * job.x.strides[2] + column * job.x.strides[3]])) +
                double(to_float(y[row * job.y.strides[2] + column * job.y.strides[3]]));
      }
      if (!(value > -0x1p100 && value < 0x1p100)) continue;
      int64_t place = count++;
      for (; place > 0 && sample[place - 1] > value; --place) sample[place] = sample[place - 1];
      sample[place] = value;
    }
  }
  if (count == 0) return 0;
  return double(float((sample[count / 10] + sample[count - 1 - count / 10]) / 2));
}

// Sum (less `centre`) and difference of one row of the padded image, in the image's own order.
template <class T, class C>
inline void read_row(const SsimJob& job, const Strip& strip, int64_t plane, int64_t row, C centre,
                     C* sum, C* difference) {
  const int64_t image_row = row - job.padding;
  int64_t from = bigger(strip.first, job.padding) - strip.first;
  int64_t to = smaller(strip.first + strip.count, job.padding + job.width) - strip.first;
  if (image_row < 0 || image_row >= job.height || to < from) from = to = 0;
  for (int64_t c = 0; c < from; ++c) sum[c] = -centre;
  for (int64_t c = to; c < strip.count; ++c) sum[c] = -centre;
  for (int64_t c = 0; c < from; ++c) difference[c] = 0;
  for (int64_t c = to; c < strip.count; ++c) difference[c] = 0;
  if (from == to) return;
  const int64_t x_step = job.x.strides[3], y_step = job.y.strides[3];
  const int64_t column = strip.first - job.padding;
  const T* x = plane_of<const T>(job.x, plane, job.channels) + image_row * job.x.strides[2] +
               column * x_step;
  const T* y = plane_of<const T>(job.y, plane, job.channels) + image_row * job.y.strides[2] +
               column * y_step;
  const C half = centre / 2;
  if (x_step == 1 && y_step == 1) {
#pragma GCC ivdep
    for (int64_t c = from; c < to; ++c) {
      const C a = C(to_float(x[c])), b = C(to_float(y[c]));
      sum[c] = (a - half) + (b - half);
      difference[c] = a - b;
    }
    return;
  }
  for (int64_t c = from; c < to; ++c) {
    const C a = C(to_float(x[c * x_step])), b = C(to_float(y[c * y_step]));
    sum[c] = (a - half) + (b - half);
    difference[c] = a - b;
  }
}

// The part of a row of gradients that the strip owns.
template <class T, class C>
inline void write_gradient(const SsimJob& job, const SsimImages& to, const Strip& strip,
                           int64_t plane, int64_t row, const C* values) {
  const int64_t first = bigger(strip.own_first, job.padding);
  const int64_t last = smaller(strip.own_last, job.padding + job.width);
  T* out = plane_of<T>(to, plane, job.channels) + (row - job.padding) * to.strides[2];
  const int64_t step = to.strides[3];
  for (int64_t c = first; c < last; ++c) {
    const C value = values[c - strip.first];
    if constexpr (sizeof(T) == sizeof(double)) {
      out[(c - job.padding) * step] = double(value);
    } else {
      out[(c - job.padding) * step] = from_float<T>(float(value));
    }
  }
}

// Columns to registers. `from` has kLanes<C> elements to spare behind `lanes * vectors`, which give
// the registers behind the last one their halo; `to` takes `vectors` rounded up to kLanes<C>.
template <class C>
inline void to_lanes(const C* from, int64_t vectors, C* to) {
  for (int64_t j = 0; j < vectors; j += kLanes<C>) {
    transpose_square<C>(from + j, vectors, to + j * kLanes<C>, kLanes<C>);
  }
}

// And back. A block's last elements may belong to the next lane: backwards, so that the lane's own
// come after.
template <class C>
inline void from_lanes(const C* from, int64_t vectors, C* to) {
  for (int64_t j = round_up(vectors, kLanes<C>) - kLanes<C>; j >= 0; j -= kLanes<C>) {
    transpose_square<C>(from + j * kLanes<C>, kLanes<C>, to + j, vectors);
  }
}

// Lane l takes what lane l + 1 (or l - 1) had; zero comes in at the end.
template <class C>
MEDAD_INLINE Vector<C> turn(Vector<C> v, int by) {
  typename VectorOf<C>::integers from;
  for (int i = 0; i < kLanes<C>; ++i) {
    const int source = i + by;
    from[i] = source < 0 || source >= kLanes<C> ? kLanes<C> : source;
  }
  return __builtin_shuffle(v, Vector<C>{}, from);
}

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

  // Bytes of it all; assigns the pointers, null where `memory` is.
  int64_t plan(int64_t vectors, int64_t window_radius, char* memory) {
    radius = window_radius;
    ring_rows = 2 * radius + kStep;
    padded = round_up(vectors, bigger(kLanes<C>, kStep));
    with_halo = padded + 2 * radius;
    Parts parts{memory};
    const auto take = [&](C*& part, int64_t count) { part = parts.take<C>(count); };
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
    offsets = parts.take<int64_t>(ring_rows);
    return parts.used;
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
