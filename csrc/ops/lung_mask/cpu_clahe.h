// CLAHE and Otsu on the CPU, one image. Included by cpu.cpp only.
#pragma once

#include "core/simd.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kCounters =
    4;  // histograms side by side: equal neighbours do not wait for each other

void count_grays(const uint8_t* row, int64_t width, uint32_t (&counts)[kCounters][kGrays]) {
  int64_t x = 0;
  for (; x + kCounters <= width; x += kCounters) {
    for (int c = 0; c < kCounters; ++c) ++counts[c][row[x + c]];
  }
  for (; x < width; ++x) ++counts[0][row[x]];
}

// Cuts the histogram of one tile and hands out what was cut: scikit-image's clip_histogram.
void clip_histogram(int32_t* bins, int limit) {
  int32_t excess = 0;
  for (int b = 0; b < kBins; ++b) excess += bins[b] > limit ? bins[b] - limit : 0;
  const int share = excess / kBins;
  for (int b = 0; b < kBins; ++b) {
    const int cut = bins[b] < limit ? bins[b] : limit;
    bins[b] = clipped_bin(bins[b], limit, share);
    excess -= bins[b] - cut;
  }
  while (excess > 0) {
    const int32_t before = excess;
    for (int first = 0; first < kBins && excess > 0; ++first) {
      int under = 0;
      for (int b = 0; b < kBins; ++b) under += bins[b] < limit;
      const int step = under / excess;
      int32_t given = 0;
      if (step <= 1) {  // apart, since it takes vectors
        for (int b = first; b < kBins; ++b) {
          const int more = bins[b] < limit;
          bins[b] += more;
          given += more;
        }
      } else {
        for (int b = first; b < kBins; b += step) {
          const int more = bins[b] < limit;
          bins[b] += more;
          given += more;
        }
      }
      excess -= given;
    }
    if (excess == before) break;
  }
}

// The levels of one tile by gray value.
void tile_levels(const uint8_t* image, int64_t height, int64_t width, const ClaheGrid& grid,
                 int64_t tile_row, int64_t tile_column, const uint8_t* bin_of, uint16_t* levels) {
  uint32_t counts[kCounters][kGrays] = {};
  const int64_t left = tile_column * grid.tile_width;
  const int64_t inside = left + grid.tile_width < width ? grid.tile_width : width - left;
  for (int64_t y = tile_row * grid.tile_height; y < (tile_row + 1) * grid.tile_height; ++y) {
    const uint8_t* row = image + (y < height ? y : 2 * (height - 1) - y) * width;
    count_grays(row + left, inside, counts);
    for (int64_t x = left + inside; x < left + grid.tile_width; ++x) {
      ++counts[0][row[2 * (width - 1) - x]];
    }
  }
  int32_t bins[kBins] = {};
  for (int gray = 0; gray < kGrays; ++gray) {
    counts[0][gray] += counts[1][gray] + counts[2][gray] + counts[3][gray];
  }
  for (int gray = 0; gray < kGrays; ++gray) bins[bin_of[gray]] += int32_t(counts[0][gray]);
  clip_histogram(bins, grid.limit);
  for (int b = 1; b < kBins; ++b) bins[b] += bins[b - 1];
  uint16_t level[kBins];
  for (int b = 0; b < kBins; ++b) level[b] = uint16_t(clahe_level(bins[b], grid.scale));
  for (int gray = 0; gray < kGrays; ++gray) levels[gray] = level[bin_of[gray]];
}

// A gray value's levels in two tiles side by side, that of the left one in the low half.
MEDAD_INLINE uint32_t left_of(uint32_t pair) { return pair & 0xffff; }
MEDAD_INLINE uint32_t right_of(uint32_t pair) { return pair >> 16; }

// The pairs of one row of tiles: kGrays for each block of columns between two tiles' middles.
// `levels` has room for the row.
void row_pairs(const uint8_t* image, int64_t height, int64_t width, const ClaheGrid& grid,
               int64_t tile_row, const uint8_t* bin_of, uint16_t* levels, uint32_t* pairs) {
  for (int64_t c = 0; c < grid.columns; ++c) {
    tile_levels(image, height, width, grid, tile_row, c, bin_of, levels + c * kGrays);
  }
  for (int64_t block = 0; block <= grid.columns; ++block) {
    const uint16_t* left = levels + (block > 0 ? block - 1 : 0) * kGrays;
    const uint16_t* right = levels + (block < grid.columns ? block : grid.columns - 1) * kGrays;
    for (int gray = 0; gray < kGrays; ++gray) {
      pairs[block * kGrays + gray] = uint32_t(left[gray]) | uint32_t(right[gray]) << 16;
    }
  }
}

// The pairs of the pixels of one row, in the tiles above and below, and the weights of left and
// right; those without the division by the tile's width in `whole`.
struct BlendRow {
  uint32_t *above, *below;
  double *left, *right;
  uint32_t *whole_left, *whole_right;
};

void blend_row(const BlendRow& row, const ClaheGrid& grid, int64_t y, int64_t width,
               uint16_t* out) {
  const int64_t offset = blend_offset(y, grid.tile_height);
  const double below = double(offset) / double(grid.tile_height), above = 1 - below;
  for (int64_t x = 0; x < width; ++x) {
    const int above_left = int(left_of(row.above[x])), above_right = int(right_of(row.above[x]));
    const int below_left = int(left_of(row.below[x])), below_right = int(right_of(row.below[x]));
    out[x] = uint16_t(blend(above_left, above_right, below_left, below_right, above, below,
                            row.left[x], row.right[x]));
  }
}

// The same where the weights are short binary fractions: no product and no sum is rounded.
void blend_row_dyadic(const BlendRow& row, const ClaheGrid& grid, int64_t y, int64_t width,
                      uint16_t* out) {
  const uint32_t below = uint32_t(blend_offset(y, grid.tile_height));
  const uint32_t above = uint32_t(grid.tile_height) - below;
  const int shift = __builtin_ctzll(uint64_t(grid.tile_height * grid.tile_width));
  for (int64_t x = 0; x < width; ++x) {
    const uint32_t left = left_of(row.above[x]) * above + left_of(row.below[x]) * below;
    const uint32_t right = right_of(row.above[x]) * above + right_of(row.below[x]) * below;
    out[x] = uint16_t((left * row.whole_left[x] + right * row.whole_right[x]) >> shift);
  }
}

void look_up_row(const uint8_t* gray, const uint32_t* pairs, const ClaheGrid& grid, int64_t y,
                 int64_t width, const BlendRow& row) {
  const int64_t row_size = int64_t(grid.columns + 1) * kGrays;
  const uint32_t* above = pairs + first_tile(y, grid.tile_height) * row_size;
  const uint32_t* below = pairs + second_tile(y, grid.tile_height, grid.rows) * row_size;
  for (int64_t x = 0; x < width; above += kGrays, below += kGrays) {
    const int64_t next = x + grid.tile_width - blend_offset(x, grid.tile_width);
    for (const int64_t end = next < width ? next : width; x < end; ++x) {
      row.above[x] = above[gray[x]];
      row.below[x] = below[gray[x]];
    }
  }
}

// The bin of Otsu's threshold; the first and the last bin are not empty.
int otsu_split(const int64_t* counts) {
  float high_count[kBins];
  double high_moment[kBins];
  float count = 0;
  double moment = 0;
  for (int b = kBins - 1; b > 0; --b) {
    count += float(counts[b]);
    moment += double(float(counts[b])) * otsu_centre(b);
    high_count[b] = count;
    high_moment[b] = moment;
  }
  count = 0;
  moment = 0;
  double best = -1;
  int split = 0;
  for (int b = 0; b < kBins - 1; ++b) {
    count += float(counts[b]);
    moment += double(float(counts[b])) * otsu_centre(b);
    const double variance = otsu_variance(count, moment, high_count[b + 1], high_moment[b + 1]);
    if (variance > best) {
      best = variance;
      split = b;
    }
  }
  return split;
}

}  // namespace
}  // namespace medad::MEDAD_ISA
