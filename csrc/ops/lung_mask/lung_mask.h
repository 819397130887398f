// Lung masks of chest radiographs: AnatPaste's published segmentation, pixel for pixel
// ("reference"), or a plain pipeline of our own ("clean").
//
//   images   (B, H, W) uint8, contiguous
//   out      (B, H, W) bool, contiguous
//
// "reference" is what the published recipe does with scikit-image: contrast-limited adaptive
// histogram equalisation (CLAHE), Otsu's threshold, dark pixels, opening, clearing of the border,
// dilation, and the removal of whole bounding boxes of small components. "clean" closes instead of
// dilating, keeps the two largest components and fills their holes. The floating steps are
// CLAHE and Otsu; below they are written so that every rounding is scikit-image's own. All else is
// bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "core/cpu_level.h"
#include "core/host_device.h"
#include "core/tensor_view.h"
#include "ops/lung_mask/bits.h"

namespace medad {

constexpr int kGrays = 256;
constexpr int kBins = 256;        // of CLAHE's tile histograms, and of Otsu's
constexpr int kLevels = 1 << 14;  // gray levels that CLAHE works with
constexpr int kHighest = kLevels - 1;
constexpr int kBinLevels =
    1 + kLevels / kBins;          // a bin is wider than need be: the last 3 stay empty
constexpr int kSmallArea = 400;   // pixels; absolute, as published
constexpr int kLargeShare = 164;  // "clean": a lung is at least 1/164 of the image; 400 at 256^2
constexpr int kCloseShare = 64;   // "clean": closing reaches 1/64 of the shorter side

// How CLAHE divides an image. The last row and column of tiles may reach beyond it: there the image
// is mirrored about its last pixel.
struct ClaheGrid {
  int64_t tile_height, tile_width;
  int rows, columns;  // of tiles
  int limit;          // what a bin may hold
  double scale;       // from a cumulated count to a level
  bool dyadic;        // the blend's weights are so short that integers are exact
};

MEDAD_HD ClaheGrid clahe_grid(int64_t height, int64_t width) {
  ClaheGrid grid{};
  grid.tile_height = height / 8 > 1 ? height / 8 : 1;
  grid.tile_width = width / 8 > 1 ? width / 8 : 1;
  grid.rows = int((height + grid.tile_height - 1) / grid.tile_height);
  grid.columns = int((width + grid.tile_width - 1) / grid.tile_width);
  const int64_t pixels = grid.tile_height * grid.tile_width;
  const double limit = 0.01 * double(pixels);
  grid.limit = limit > 1 ? int(limit) : 1;
  grid.scale = double(kHighest) / double(pixels);
  // Level (14 bits) times weight fits in the 24 bits of scikit-image's float32.
  grid.dyadic = (pixels & (pixels - 1)) == 0 && pixels <= 1024;
  return grid;
}

// The bin of a gray value, in an image whose extremes are these.
MEDAD_HD int clahe_bin(int value, int lowest, int highest) {
  double level;
  if (lowest == highest) {
    level = value * 257 < kHighest ? value * 257 : kHighest;
  } else {
    level = rint(double(value - lowest) / double(highest - lowest) * double(kHighest));
  }
  return int(level) / kBinLevels;
}

// The first part of the clipping of one bin: cut at the limit, then given an equal share of what
// all bins lost, and filled up where that share brought it near the limit.
MEDAD_HD int clipped_bin(int count, int limit, int share) {
  int clipped = count < limit ? count : limit;
  const int upper = limit - share;
  if (clipped < upper) clipped += share;
  return clipped >= upper ? limit : clipped;
}

MEDAD_HD int clahe_level(int cumulated, double scale) {
  const double level = double(cumulated) * scale;
  return int(level < double(kHighest) ? level : double(kHighest));
}

// Weight of the second of two neighbouring tiles at a row or column, before the division by `tile`.
MEDAD_HD int64_t blend_offset(int64_t place, int64_t tile) { return (place + tile / 2) % tile; }
// Which two tiles those are.
MEDAD_HD int first_tile(int64_t place, int64_t tile) {
  const int64_t block = (place + tile / 2) / tile;
  return int(block > 0 ? block - 1 : 0);
}
MEDAD_HD int second_tile(int64_t place, int64_t tile, int tiles) {
  const int64_t block = (place + tile / 2) / tile;
  return int(block < tiles ? block : tiles - 1);
}

// The levels of a pixel's gray value in its four tiles, blended: products in double, each rounded
// to float, summed in float in this order.
MEDAD_HD int blend(int above_left, int above_right, int below_left, int below_right, double above,
                   double below, double left, double right) {
  float sum = float(double(above_left) * (left * above));
  sum += float(double(above_right) * (right * above));
  sum += float(double(below_left) * (left * below));
  sum += float(double(below_right) * (right * below));
  return int(sum);
}

// Otsu's criterion for one split: counts and first moments of the bins on either side. Counts are
// summed bin by bin from the two ends in float32, moments in double.
MEDAD_HD double otsu_variance(float low_count, double low_moment, float high_count,
                              double high_moment) {
  const double gap = low_moment / double(low_count) - high_moment / double(high_count);
  const float product = low_count * high_count;
  return double(product) * (gap * gap);
}

// Where a bin of Otsu's histogram lies: the middle of one of 256 bins between 0 and 1.
MEDAD_HD double otsu_centre(int bin) { return (double(bin) + 0.5) / double(kBins); }

// The equalised image is stretched to [0, 1] before Otsu. With n a level above the lowest
// and d the whole range, both are comparisons of integers:
//   bin of n / d:               floor(256 n / d), the last bin closed
//   0 < n / d <= (2 bin + 1) / 512
MEDAD_HD int otsu_bin(int n, int range) { return n < range ? kBins * n / range : kBins - 1; }
MEDAD_HD int last_of_otsu_bin(int bin, int range) {
  return bin < kBins - 1 ? ((bin + 1) * range + kBins - 1) / kBins - 1 : range;
}
MEDAD_HD int highest_dark(int bin, int range) { return (2 * bin + 1) * range / (2 * kBins); }

enum class LungMode : int { kReference, kClean };

struct LungJob {
  const uint8_t* images;
  uint8_t* out;
  int64_t batch, height, width;
  LungMode mode;
  void* scratch;  // for the GPU
  int64_t scratch_bytes;
  int threads;
};

// Runs in a row of an opened or closed image, or of its complement: they, or the gaps between them,
// are at least 3 pixels long, or 2 at the border.
MEDAD_HD int64_t most_runs(int64_t height, int64_t width) { return height * (width / 4 + 2); }
// Its components: no two have pixels in one 2 x 2 square.
MEDAD_HD int64_t most_components(int64_t height, int64_t width) {
  return ((height + 1) / 2) * ((width + 1) / 2);
}
// Those of at least kSmallArea pixels.
MEDAD_HD int64_t most_large(int64_t height, int64_t width) {
  return height * width / kSmallArea + 1;
}
// How often a "clean" mask is dilated, then eroded.
MEDAD_HD int64_t closing_reach(int64_t height, int64_t width) {
  const int64_t reach = (height < width ? height : width) / kCloseShare;
  return reach > 1 ? reach : 1;
}

// Where the parts of an image's scratch on the GPU lie: the launcher, the kernel and the allocation
// share it. Offsets in bytes, each a multiple of 16.
struct LungLayout {
  // What every step goes over again and again: in shared memory where that is large enough.
  int64_t bits, other, base, parent, hot_bytes;
  // The rest, and the above where they do not fit in shared memory: in global memory.
  int64_t area, at_border, top, bottom, left, right, large, equalised, levels, bytes;
};

inline LungLayout lung_layout(int64_t height, int64_t width) {
  const BitShape shape = bit_shape<uint32_t>(height, width);
  const int64_t words = shape.height * shape.words, runs = most_runs(height, width);
  const ClaheGrid grid = clahe_grid(height, width);
  int64_t used = 0;
  const auto take = [&used](int64_t bytes) {
    const int64_t offset = used;
    used += (bytes + 15) / 16 * 16;
    return offset;
  };
  LungLayout layout{};
  layout.bits = take(4 * words);
  layout.other = take(4 * words);
  layout.base = take(4 * words);
  layout.parent = take(4 * runs);
  layout.hot_bytes = used;
  for (int64_t* part : {&layout.area, &layout.at_border, &layout.top, &layout.bottom, &layout.left,
                        &layout.right}) {
    *part = take(4 * runs);
  }
  layout.large = take(4 * most_large(height, width));
  layout.equalised = take(2 * height * width);
  layout.levels = take(2 * int64_t(grid.rows) * grid.columns * kBins);
  layout.bytes = used;
  return layout;
}

MEDAD_DECLARE_CPU(lung_mask_cpu, (const LungJob& job))
void lung_mask_cuda(const LungJob& job, const Launch& launch);

}  // namespace medad
