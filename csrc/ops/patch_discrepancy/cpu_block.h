// A block of positions of one image of one layer: its distances, and their gradient.
//
// Channels are streamed once, a few at a time, and the sums of all the block's positions stay in
// L1. Where a row of positions is not contiguous in memory (channels_last, any other view) or not
// of the type we compute in (half), a tile of channels is first brought into that form in L1. Sums
// run over the channels in their order whatever the layout, so layouts agree to the last bit.
//
// Included by cpu.cpp only.
#pragma once

#include <type_traits>

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kMaxBlock = 512;     // positions: three sums of doubles make 12 KB of L1
constexpr int kPackedBlock = 128;  // with two tiles of kTile channels: 16 KB of floats
constexpr int kTile = 16;  // channels: one cache line of a channels_last position in float32
constexpr int kStep = 4;   // channels added at once, while the sums are in registers

#ifdef __FMA__
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
inline double multiply_add(double a, double b, double c) { return a * b + c; }
inline float multiply_add(float a, float b, float c) { return a * b + c; }
#endif

inline DoubleVector widen_to_double(const float* from) {
#if defined(MEDAD_ISA_avx512)
  // Each half loaded by its own instruction: left alone, gcc loads a whole register and splits it.
  return DoubleVector(_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)));
#else
  typedef float Narrow __attribute__((vector_size(kVectorBytes / 2)));
  Narrow value;
  __builtin_memcpy(&value, from, sizeof value);
  return __builtin_convertvector(value, DoubleVector);
#endif
}

// Where the vectors of a block are, and how far apart their elements.
struct Block {
  const DiscrepancyLayer* layer;
  int64_t image, first, count;  // positions first .. first + count of the image
};

template <class T>
inline bool is_planar(const DiscrepancySide& side, const DiscrepancyLayer& layer) {
  return std::is_same_v<T, real_of<T>> && (layer.width == 1 || side.column_stride == 1) &&
         (layer.height == 1 || side.row_stride == layer.width);
}

template <class T>
inline T* image_of(const DiscrepancySide& side, int64_t image) {
  return static_cast<T*>(side.data) + image * side.batch_stride;
}

// Calls visit(i, offset, length) for each run of positions of the block that lie evenly spaced.
template <class Visit>
inline void each_run(const Block& block, const DiscrepancySide& side, Visit visit) {
  const int64_t width = block.layer->width;
  const bool even = side.row_stride == width * side.column_stride;
  for (int64_t i = 0; i < block.count;) {
    const int64_t y = (block.first + i) / width, x = (block.first + i) % width;
    const int64_t length = even ? block.count : smaller(block.count - i, width - x);
    visit(i, y * side.row_stride + x * side.column_stride, length);
    i += length;
  }
}

// A row of neighbouring elements as real numbers.
template <class T>
inline void convert_row(const T* from, int64_t count, real_of<T>* to) {
  int64_t x = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, Half>) {
    for (; x + 8 <= count; x += 8) {
      __m128i halves;
      __builtin_memcpy(&halves, from + x, sizeof halves);
      const __m256 floats = _mm256_cvtph_ps(halves);
      __builtin_memcpy(to + x, &floats, sizeof floats);
    }
  }
#endif
  for (; x < count; ++x) to[x] = to_float(from[x]);
}

// Vectors of neighbouring elements, `step` apart, as columns: to[c][x] = from[x][c].
template <class T>
inline void convert_vectors(const T* from, int64_t step, int64_t channels, int64_t count,
                            real_of<T>* to, int64_t stride) {
  using R = real_of<T>;
  constexpr int kSide = kLanes<R>;
  int64_t x = 0;
  for (; x + kSide <= count; x += kSide) {
    int64_t c = 0;
    for (; c + kSide <= channels; c += kSide) {
      if constexpr (std::is_same_v<T, R>) {
        transpose_square<R>(from + x * step + c, step, to + c * stride + x, stride);
      } else {
        alignas(64) R square[kSide * kSide];
        for (int i = 0; i < kSide; ++i) {
          convert_row(from + (x + i) * step + c, kSide, square + i * kSide);
        }
        transpose_square<R>(square, kSide, to + c * stride + x, stride);
      }
    }
    for (; c < channels; ++c) {
      for (int i = 0; i < kSide; ++i) to[c * stride + x + i] = to_float(from[(x + i) * step + c]);
    }
  }
  for (; x < count; ++x) {
    for (int64_t c = 0; c < channels; ++c) to[c * stride + x] = to_float(from[x * step + c]);
  }
}

// Tile (channels, stride) of real numbers from any layout. What the next tile will read is asked
// for on the way: it lies out of the prefetcher's sight.
template <class T>
inline void pack(const Block& block, const DiscrepancySide& side, int64_t channel, int64_t channels,
                 real_of<T>* tile, int64_t stride) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(T));
  const T* from = image_of<const T>(side, block.image) + channel * side.channel_stride;
  each_run(block, side, [&](int64_t i, int64_t offset, int64_t length) {
    if (side.column_stride == 1) {
      for (int64_t c = 0; c < channels; ++c) {
        const T* row = from + c * side.channel_stride + offset;
        for (int64_t x = 0; x < length; x += kLine) {
          __builtin_prefetch(row + channels * side.channel_stride + x);
        }
        convert_row(row, length, tile + c * stride + i);
      }
    } else if (side.channel_stride == 1) {
      const T* vectors = from + offset;
      for (int64_t x = 0; x < length; ++x) {
        __builtin_prefetch(vectors + x * side.column_stride + channels);
      }
      convert_vectors(vectors, side.column_stride, channels, length, tile + i, stride);
    } else {
      for (int64_t x = 0; x < length; ++x) {
        const T* vector = from + offset + x * side.column_stride;
        for (int64_t c = 0; c < channels; ++c) {
          tile[c * stride + i + x] = to_float(vector[c * side.channel_stride]);
        }
      }
    }
  });
}

template <class T>
inline void unpack(const Block& block, const DiscrepancySide& side, int64_t channel,
                   int64_t channels, const real_of<T>* tile) {
  T* to = image_of<T>(side, block.image) + channel * side.channel_stride;
  each_run(block, side, [&](int64_t i, int64_t offset, int64_t length) {
    if (side.column_stride == 1) {
      for (int64_t c = 0; c < channels; ++c) {
        T* row = to + c * side.channel_stride + offset;
        for (int64_t x = 0; x < length; ++x) row[x] = from_float<T>(tile[c * block.count + i + x]);
      }
      return;
    }
    for (int64_t x = 0; x < length; ++x) {
      T* vector = to + offset + x * side.column_stride;
      for (int64_t c = 0; c < channels; ++c) {
        vector[c * side.channel_stride] = from_float<T>(tile[c * block.count + i + x]);
      }
    }
  });
}

// Calls visit(a, a_stride, b, b_stride, channel, channels) on rows of positions, one per channel.
template <class T, class Visit>
inline void each_tile(const Block& block, Visit visit) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  if (is_planar<T>(layer.features, layer) && is_planar<T>(layer.reconstructed, layer)) {
    visit(reinterpret_cast<const R*>(image_of<const T>(layer.features, block.image)) + block.first,
          layer.features.channel_stride,
          reinterpret_cast<const R*>(image_of<const T>(layer.reconstructed, block.image)) +
              block.first,
          layer.reconstructed.channel_stride, int64_t(0), layer.channels);
    return;
  }
  alignas(64) R a[kTile * kPackedBlock];
  alignas(64) R b[kTile * kPackedBlock];
  for (int64_t channel = 0; channel < layer.channels; channel += kTile) {
    const int64_t channels = smaller(kTile, layer.channels - channel);
    pack<T>(block, layer.features, channel, channels, a, block.count);
    pack<T>(block, layer.reconstructed, channel, channels, b, block.count);
    visit(a, block.count, b, block.count, channel, channels);
  }
}

// Positions a block may have: what each_tile, and the caches, can hold.
template <class T>
inline int64_t block_of(const DiscrepancyLayer& layer, int64_t largest) {
  const bool planar =
      is_planar<T>(layer.features, layer) && is_planar<T>(layer.reconstructed, layer);
  return planar ? largest : smaller(largest, kPackedBlock);
}

struct Sums {
  alignas(64) double a[kMaxBlock];           // |a|^2
  alignas(64) double b[kMaxBlock];           // |b|^2
  alignas(64) double difference[kMaxBlock];  // |a - b|^2
};

inline void clear(Sums& sums, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums.a[i] = sums.b[i] = sums.difference[i] = 0;
}

// Rows of positions of a few channels.
template <int kChannels>
struct Rows {
  const float* row[kChannels];

  Rows(const float* first, int64_t stride) {
    for (int c = 0; c < kChannels; ++c) row[c] = first + c * stride;
  }
};

// Adds rows of positions to the sums, and asks for the rows that are due next: they lie a whole
// plane further, out of the prefetcher's sight.
template <int kChannels, bool kPrefetch>
inline void add_channels(const Rows<kChannels>& a, const Rows<kChannels>& b, int64_t count,
                         const Rows<kChannels>& next_a, const Rows<kChannels>& next_b, Sums& sums) {
  constexpr int kLine = 16;  // floats in a cache line
  int64_t line = 0;
  for (; line + kLine <= count; line += kLine) {
    if (kPrefetch) {
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) {
        __builtin_prefetch(next_a.row[c] + line);
        __builtin_prefetch(next_b.row[c] + line);
      }
    }
#pragma GCC unroll 8
    for (int64_t i = line; i < line + kLine; i += kLanes<double>) {
      DoubleVector sum_a = load<double>(sums.a + i), sum_b = load<double>(sums.b + i);
      DoubleVector difference = load<double>(sums.difference + i);
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) {
        const DoubleVector x = widen_to_double(a.row[c] + i), y = widen_to_double(b.row[c] + i);
        const DoubleVector gap = x - y;
        sum_a = fma(x, x, sum_a);
        sum_b = fma(y, y, sum_b);
        difference = fma(gap, gap, difference);
      }
      store<double>(sums.a + i, sum_a);
      store<double>(sums.b + i, sum_b);
      store<double>(sums.difference + i, difference);
    }
  }
  for (int64_t i = line; i < count; ++i) {
    for (int c = 0; c < kChannels; ++c) {
      const double x = a.row[c][i], y = b.row[c][i], gap = x - y;
      sums.a[i] = multiply_add(x, x, sums.a[i]);
      sums.b[i] = multiply_add(y, y, sums.b[i]);
      sums.difference[i] = multiply_add(gap, gap, sums.difference[i]);
    }
  }
}

inline void add_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                     int64_t channels, int64_t count, Sums& sums) {
  const bool in_place = a_stride != count;  // not a packed tile, which is in L1 already
  int64_t c = 0;
  for (; c + kStep <= channels; c += kStep) {
    const Rows<kStep> now_a(a + c * a_stride, a_stride), now_b(b + c * b_stride, b_stride);
    // After the last channels comes the first of the positions behind this block.
    const bool last = c + 2 * kStep > channels;
    const Rows<kStep> next_a(last ? a + count : now_a.row[0] + kStep * a_stride, a_stride);
    const Rows<kStep> next_b(last ? b + count : now_b.row[0] + kStep * b_stride, b_stride);
    if (in_place) {
      add_channels<kStep, true>(now_a, now_b, count, next_a, next_b, sums);
    } else {
      add_channels<kStep, false>(now_a, now_b, count, next_a, next_b, sums);
    }
  }
  for (; c < channels; ++c) {
    const Rows<1> now_a(a + c * a_stride, a_stride), now_b(b + c * b_stride, b_stride);
    add_channels<1, false>(now_a, now_b, count, now_a, now_b, sums);
  }
}

// What the gradient needs of each position. The scale, a power of two, is 1 unless the elements are
// doubles; norms and their inverses are those of the scaled vectors.
struct Pairs {
  alignas(64) double distance[kMaxBlock];
  alignas(64) double norm_a[kMaxBlock], norm_b[kMaxBlock];
  alignas(64) double inverse_a[kMaxBlock], inverse_b[kMaxBlock];
  alignas(64) double scale_a[kMaxBlock], scale_b[kMaxBlock];
};

// An element of a unit vector: to double's last digit for doubles, by the inverse for narrower
// types.
inline double unit(float x, double, double, double inverse) { return double(x) * inverse; }
inline double unit(double x, double scale, double norm, double) { return x * scale / norm; }

// Float32 and the half types: one pass, sums in double.
template <class T>
inline void add_up(const Block& block, Sums& sums) {
  clear(sums, block.count);
  each_tile<T>(block, [&](const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                          int64_t, int64_t channels) {
    add_rows(a, a_stride, b, b_stride, channels, block.count, sums);
  });
}

template <class T>
inline void measure(const Block& block, Pairs& pairs, float) {
  Sums sums;
  add_up<T>(block, sums);
#pragma GCC ivdep
  for (int64_t i = 0; i < block.count; ++i) {
    pairs.distance[i] = distance_of(sums.a[i], sums.b[i], sums.difference[i]);
    pairs.inverse_a[i] = 1 / norm_of(sums.a[i], sums.b[i]);
    pairs.inverse_b[i] = 1 / norm_of(sums.b[i], sums.a[i]);
    pairs.scale_a[i] = pairs.scale_b[i] = 1;
  }
}

// Float64: passes for the largest element, the norms, and the distance of the unit vectors.
template <class T>
inline void measure(const Block& block, Pairs& pairs, double) {
  Sums sums;
  const int64_t count = block.count;
  clear(sums, count);
  const auto each_element = [&](auto visit) {
    each_tile<T>(block, [&](const double* a, int64_t a_stride, const double* b, int64_t b_stride,
                            int64_t, int64_t channels) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < count; ++i) visit(i, a[c * a_stride + i], b[c * b_stride + i]);
      }
    });
  };
  each_element([&](int64_t i, double x, double y) {
    x = x < 0 ? -x : x;
    y = y < 0 ? -y : y;
    sums.a[i] = x > sums.a[i] ? x : sums.a[i];
    sums.b[i] = y > sums.b[i] ? y : sums.b[i];
  });
  for (int64_t i = 0; i < count; ++i) {
    pairs.scale_a[i] = power_of_two_below(sums.a[i]);
    pairs.scale_b[i] = power_of_two_below(sums.b[i]);
  }
  clear(sums, count);
  each_element([&](int64_t i, double x, double y) {
    x *= pairs.scale_a[i];
    y *= pairs.scale_b[i];
    sums.a[i] = multiply_add(x, x, sums.a[i]);
    sums.b[i] = multiply_add(y, y, sums.b[i]);
  });
  for (int64_t i = 0; i < count; ++i) {
    pairs.norm_a[i] = norm_of(sums.a[i], sums.b[i]);
    pairs.norm_b[i] = norm_of(sums.b[i], sums.a[i]);
    pairs.inverse_a[i] = 1 / pairs.norm_a[i];
    pairs.inverse_b[i] = 1 / pairs.norm_b[i];
  }
  each_element([&](int64_t i, double x, double y) {
    const double gap = unit(x, pairs.scale_a[i], pairs.norm_a[i], 0) -
                       unit(y, pairs.scale_b[i], pairs.norm_b[i], 0);
    sums.difference[i] = multiply_add(gap, gap, sums.difference[i]);
  });
  for (int64_t i = 0; i < count; ++i) {
    pairs.distance[i] = settle(sums.a[i], sums.b[i], sums.difference[i] / 2);
  }
}

// The block's distances.
template <class T>
inline void block_distance(const Block& block, float* out) {
  Sums sums;
  add_up<T>(block, sums);
#pragma GCC ivdep
  for (int64_t i = 0; i < block.count; ++i) {
    out[i] = float(distance_of(sums.a[i], sums.b[i], sums.difference[i]));
  }
}

template <class T>
inline void block_distance(const Block& block, double* out) {
  Pairs pairs;
  measure<T>(block, pairs, double());
  for (int64_t i = 0; i < block.count; ++i) out[i] = pairs.distance[i];
}

// Gradient of the block's distances times `upstream`, to the sides that have a place for it.
template <class T>
inline void block_gradient(const Block& block, const real_of<T>* upstream) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  Pairs pairs;
  measure<T>(block, pairs, R());
  alignas(64) R tile[kTile * kMaxBlock];
  const auto write = [&](const DiscrepancySide& to, int64_t channel, int64_t channels, auto value) {
    if (to.data == nullptr) return;
    const bool direct = is_planar<T>(to, layer);
    R* rows = tile;
    int64_t stride = block.count;
    if (direct) {
      stride = to.channel_stride;
      rows = reinterpret_cast<R*>(image_of<T>(to, block.image)) + channel * stride + block.first;
    }
    for (int64_t c = 0; c < channels; ++c) {
#pragma GCC ivdep
      for (int64_t i = 0; i < block.count; ++i) rows[c * stride + i] = R(value(c, i));
    }
    if (!direct) unpack<T>(block, to, channel, channels, tile);
  };
  each_tile<T>(block, [&](const R* a, int64_t a_stride, const R* b, int64_t b_stride,
                          int64_t channel, int64_t channels) {
    for (int64_t c0 = 0; c0 < channels; c0 += kTile) {
      const int64_t part = smaller(kTile, channels - c0);
      const R* x = a + c0 * a_stride;
      const R* y = b + c0 * b_stride;
      const auto unit_a = [&](int64_t c, int64_t i) {
        return unit(x[c * a_stride + i], pairs.scale_a[i], pairs.norm_a[i], pairs.inverse_a[i]);
      };
      const auto unit_b = [&](int64_t c, int64_t i) {
        return unit(y[c * b_stride + i], pairs.scale_b[i], pairs.norm_b[i], pairs.inverse_b[i]);
      };
      write(layer.grad_features, channel + c0, part, [&](int64_t c, int64_t i) {
        return double(upstream[i]) * slope_a(unit_a(c, i), unit_b(c, i), pairs.distance[i]) *
               pairs.inverse_a[i] * pairs.scale_a[i];
      });
      write(layer.grad_reconstructed, channel + c0, part, [&](int64_t c, int64_t i) {
        return double(upstream[i]) * slope_b(unit_a(c, i), unit_b(c, i), pairs.distance[i]) *
               pairs.inverse_b[i] * pairs.scale_b[i];
      });
    }
  });
}

}  // namespace
}  // namespace medad::MEDAD_ISA
