// Anatomy paste (AnatPaste's augmentation, DDAD's foreign patches): a patch of an image, its grey
// levels jittered, pasted through a blurred shape that a mask of the anatomy gates.
//
//   images    (B, C, H, W), uint8 or floating; sources (N, C, Hs, Ws), the same type
//   masks     (B, H, W) bool, or absent: then nothing is gated
//   integers  (B, kPasteIntegers) int64, reals (B, kPasteReals) float64: a row an image
//   out       like images; gate (B, 1, H, W): uint8 when exact, else float32 (float64 for float64)
//
// Everything is contiguous. With x the image, p the patch and g the gate, out = x (1 - g) + p g,
// and x itself where g is 0. Around the patch p is black.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/cpu_level.h"
#include "core/half.h"
#include "core/host_device.h"
#include "core/tensor_view.h"

namespace medad {

enum PasteInteger : int {
  kPasteWidth,
  kPasteHeight,
  kPasteMargin,
  kPasteShape,
  kPasteJitterOrder,
  kPasteSourceRow,
  kPasteSourceColumn,
  kPasteFallbackRow,
  kPasteFallbackColumn,
  kPasteCentreRow,
  kPasteCentreColumn,
  kPasteHasCentre,
  kPasteSource,
  kPasteIntegers
};

enum PasteReal : int {
  kPasteSigma,
  kPasteOpacity,
  kPasteBrightness,
  kPasteContrast,
  kPasteBlack,
  kPasteCentreRank,
  kPasteReals
};

enum PasteShape : int { kPasteRectangle, kPasteEllipse, kPasteWholePatch };

constexpr int64_t kMaxPasteSide = 32768;  // p^2 q^2 below fits 64 bits, coordinates fit 32
constexpr double kMaxPasteSigma = 1024;

MEDAD_HD int64_t paste_clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// What is done to one image, in its pixels; ends are exclusive. Any parameters, also those that
// only a device has seen, give a plan that stays inside the tensors.
struct PastePlan {
  int64_t source;                                    // in sources, or -1: the image itself
  int64_t source_row, source_column;                 // of the patch's first pixel
  int64_t patch_row, patch_column;                   // where that pixel goes
  int64_t patch_height, patch_width;                 // as given
  int64_t from_row, to_row, from_column, to_column;  // of the image: covered by source pixels
  int64_t centre_row, centre_column;
  int64_t half_width, half_height;  // of the ellipse
  int64_t shape_top, shape_bottom, shape_left, shape_right;
  int64_t top, bottom, left, right;  // of the gate where it may not be 0; empty: top == bottom
  int64_t whole;                     // l: the box spans 2 l + 1 pixels and a part of two more
  double part;                       // that part
  uint32_t inner, outer;             // Pillow's weights of the same box, times 2^24
  double opacity;
  bool ellipse;
  bool gated;  // set by the GPU: the mask has a pixel
};

// The box whose third convolution has variance sigma^2 (Gwosdek et al., 2011), as Pillow has it.
MEDAD_HD void set_paste_box(double sigma, PastePlan& plan) {
  const double s = sigma * sigma / 3;
  const double l = std::floor((std::sqrt(12 * s + 1) - 1) / 2);
  plan.whole = int64_t(l);
  plan.part = (2 * l + 1) * (l * (l + 1) - 3 * s) / (6 * (s - (l + 1) * (l + 1)));
  plan.part = plan.part < 0 ? 0 : plan.part > 1 ? 1 : plan.part;
}

// The same with Pillow's rounding: float where it has float, weights of 24 bits.
MEDAD_HD void set_pillow_box(double sigma, PastePlan& plan) {
#ifdef __CUDA_ARCH__
  const auto times = [](float a, float b) { return __fmul_rn(a, b); };
  const auto plus = [](float a, float b) { return __fadd_rn(a, b); };
#else
  const auto times = [](float a, float b) { return a * b; };
  const auto plus = [](float a, float b) { return a + b; };
#endif
  const float radius = float(sigma);
  const float s = times(radius, radius) / 3;
  const float length = float(std::sqrt(12.0 * double(s) + 1.0));
  const float l = float(std::floor((double(length) - 1.0) / 2.0));
  float a = times(plus(times(2, l), 1), plus(times(l, plus(l, 1)), -times(3, s)));
  a /= times(6, plus(s, -times(plus(l, 1), plus(l, 1))));
  const float box = plus(l, a);
  plan.whole = int64_t(box);
  plan.inner = uint32_t(16777216.0f / plus(times(box, 2), 1));
  plan.outer = (16777216u - uint32_t(plan.whole * 2 + 1) * plan.inner) / 2;
}

MEDAD_HD PastePlan paste_plan(const int64_t* integers, const double* reals, int64_t height,
                              int64_t width, int64_t source_height, int64_t source_width,
                              int64_t source_count, int64_t centre_row, int64_t centre_column,
                              bool exact) {
  constexpr int64_t kFar = 4 * kMaxPasteSide;
  PastePlan plan{};
  plan.source = integers[kPasteSource] >= source_count ? -1 : integers[kPasteSource];
  plan.patch_height = paste_clamp(integers[kPasteHeight], 0, kMaxPasteSide);
  plan.patch_width = paste_clamp(integers[kPasteWidth], 0, kMaxPasteSide);
  plan.source_row = paste_clamp(integers[kPasteSourceRow], -kFar, kFar);
  plan.source_column = paste_clamp(integers[kPasteSourceColumn], -kFar, kFar);
  plan.centre_row = centre_row = paste_clamp(centre_row, -kFar, kFar);
  plan.centre_column = centre_column = paste_clamp(centre_column, -kFar, kFar);
  plan.patch_row = centre_row - plan.patch_height / 2;
  plan.patch_column = centre_column - plan.patch_width / 2;
  const int64_t rows = plan.source < 0 ? height : source_height;
  const int64_t columns = plan.source < 0 ? width : source_width;
  const int64_t row_shift = plan.patch_row - plan.source_row;
  const int64_t column_shift = plan.patch_column - plan.source_column;
  plan.from_row = paste_clamp(plan.patch_row > row_shift ? plan.patch_row : row_shift, 0, height);
  plan.to_row = plan.patch_row + plan.patch_height;
  plan.to_row = paste_clamp(plan.to_row < row_shift + rows ? plan.to_row : row_shift + rows,
                            plan.from_row, height);
  plan.from_column =
      paste_clamp(plan.patch_column > column_shift ? plan.patch_column : column_shift, 0, width);
  plan.to_column = plan.patch_column + plan.patch_width;
  plan.to_column =
      paste_clamp(plan.to_column < column_shift + columns ? plan.to_column : column_shift + columns,
                  plan.from_column, width);

  const int64_t margin = paste_clamp(integers[kPasteMargin], 0, kMaxPasteSide);
  plan.half_height = plan.patch_height / 2 - margin;
  plan.half_width = plan.patch_width / 2 - margin;
  plan.ellipse = integers[kPasteShape] == kPasteEllipse;
  if (integers[kPasteShape] == kPasteWholePatch) {
    plan.shape_top = plan.patch_row;
    plan.shape_bottom = plan.patch_row + plan.patch_height;
    plan.shape_left = plan.patch_column;
    plan.shape_right = plan.patch_column + plan.patch_width;
  } else {
    plan.shape_top = centre_row - plan.half_height;
    plan.shape_bottom = centre_row + plan.half_height + 1;
    plan.shape_left = centre_column - plan.half_width;
    plan.shape_right = centre_column + plan.half_width + 1;
  }
  const double sigma = reals[kPasteSigma];
  // False for NaN.
  const double limited = sigma > 0 ? (sigma < kMaxPasteSigma ? sigma : kMaxPasteSigma) : 0;
  if (exact) {
    set_pillow_box(limited, plan);
  } else {
    set_paste_box(limited, plan);
  }
  const double opacity = reals[kPasteOpacity];
  plan.opacity = opacity > 0 ? (opacity < 1 ? opacity : 1) : 0;
  // Pillow draws no ellipse of one pixel.
  const bool point = plan.ellipse && plan.half_width == 0 && plan.half_height == 0;
  const bool drawn = plan.shape_top < height && plan.shape_bottom > 0 && plan.shape_left < width &&
                     plan.shape_right > 0 && plan.shape_top < plan.shape_bottom &&
                     plan.shape_left < plan.shape_right && !point && plan.opacity > 0;
  if (!drawn) return plan;
  const int64_t reach = limited > 0 ? 3 * (plan.whole + 1) : 0;
  plan.top = paste_clamp(plan.shape_top - reach, 0, height);
  plan.bottom = paste_clamp(plan.shape_bottom + reach, 0, height);
  plan.left = paste_clamp(plan.shape_left - reach, 0, width);
  plan.right = paste_clamp(plan.shape_right + reach, 0, width);
  return plan;
}

// How far pixel (i, j) from the centre is from the ellipse of half axes p and q.
MEDAD_HD int64_t ellipse_error(int64_t p, int64_t q, int64_t i, int64_t j) {
  const int64_t error = p * p * j * j + q * q * i * i - p * p * q * q;
  return error < 0 ? -error : error;
}

// Half the width of Pillow's ellipse j rows from the centre: the outermost pixel there of a walk
// along a quarter of the ellipse, from (p, 0) to (0, q), that always takes the step (up, diagonal
// or left) that stays nearest to the curve. The walk is started three rows below, near the curve:
// by then it has found its way, so that rows need not wait for each other.
MEDAD_HD int64_t ellipse_half_width(int64_t p, int64_t q, int64_t j) {
  const auto guess = [&](int64_t row) {
    const auto curve = [&](double y) {
      const double left = 1 - y * y / (double(q) * double(q));
      return double(p) * std::sqrt(left > 0 ? left : 0);
    };
    // Steep parts: the nearest pixel; flat parts: the last one nearer to this row than to the next.
    const int64_t steep = int64_t(curve(double(row)) + 0.5);
    const int64_t flat = int64_t(curve(double(row) - 0.5));
    return steep > flat ? steep : flat;
  };
  int64_t row = j > 3 ? j - 3 : 0;
  int64_t i = row == 0 ? p : guess(row);
  for (; row < j; ++row) {
    const int64_t near = guess(row + 1) + 1;
    if (near < i) i = near;
    while (i > 0) {
      const int64_t up = ellipse_error(p, q, i, row + 1);
      const int64_t diagonal = ellipse_error(p, q, i - 1, row + 1);
      const int64_t left = ellipse_error(p, q, i - 1, row);
      const bool goes_left = left < (up < diagonal ? up : diagonal);
      if (goes_left || diagonal < up) --i;
      if (!goes_left) break;
    }
  }
  return i;
}

// Columns of the shape in a row `j` rows from the centre; exclusive end.
struct PasteSpan {
  int64_t first, end;
};
MEDAD_HD PasteSpan paste_span(const PastePlan& plan, int64_t j) {
  if (!plan.ellipse) return {plan.shape_left, plan.shape_right};
  const int64_t half = ellipse_half_width(plan.half_width, plan.half_height, j);
  return {plan.centre_column - half, plan.centre_column + half + 1};
}

// Rows that differ: those at one distance from the centre of an ellipse, or none of a rectangle.
MEDAD_HD int64_t paste_distance(const PastePlan& plan, int64_t row) {
  if (!plan.ellipse) return 0;
  return row < plan.centre_row ? plan.centre_row - row : row - plan.centre_row;
}

// Fixed-point values of a blur without Pillow's rounding: as many bits as sums have room for.
template <class R>
MEDAD_HD int paste_bits(int64_t whole) {
  int bits = sizeof(R) == 8 ? 52 : 22;
  const int room = sizeof(R) == 8 ? 62 : 30;
  while (((2 * whole + 3) << bits) > (int64_t(1) << room)) --bits;
  return bits;
}

// One pass of that blur: `sum` over the whole pixels, `ends` of the two partial ones, rounded to
// the nearest value. Never one multiply-add, so that every device comes to the same gate.
template <class R, class I>
MEDAD_HD I smooth_box(I sum, I ends, R part, R inverse) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(R) == 4) {
    return I(__fmul_rn(__fadd_rn(R(sum), __fmul_rn(part, R(ends))), inverse) + R(0.5));
  } else {
    return I(__dmul_rn(__dadd_rn(R(sum), __dmul_rn(part, R(ends))), inverse) + R(0.5));
  }
#else
  return I((R(sum) + part * R(ends)) * inverse + R(0.5));
#endif
}

// The same as Pillow has it: `sum` over the whole pixels, `ends` of the two partial ones.
template <class I>
MEDAD_HD I pillow_box(I sum, I ends, I inner, I outer) {
  return (sum * inner + ends * outer + (1u << 23)) >> 24;
}

// Pillow's blend of two grey levels.
MEDAD_HD int pillow_blend(int from, int to, float factor) {
#ifdef __CUDA_ARCH__
  const float value = __fadd_rn(float(from), __fmul_rn(factor, float(to - from)));
#else
  const float value = float(from) + factor * float(to - from);
#endif
  return value <= 0 ? 0 : value >= 255 ? 255 : int(value);
}

// Pillow's composite of two grey levels.
MEDAD_HD unsigned pillow_composite(unsigned below, unsigned above, unsigned gate) {
  const unsigned t = below * (255 - gate) + above * gate + 128;
  return (t + (t >> 8)) >> 8;
}

// Pillow's grey of three channels, in 65536ths.
MEDAD_HD int paste_luma(int64_t channel) {
  return channel == 0 ? 19595 : channel == 1 ? 38470 : 7471;
}

MEDAD_HD double paste_channel_weight(int64_t channel, int64_t channels) {
  return channels == 3 ? paste_luma(channel) / 65536.0 : 1 / double(channels);
}

// The jitter without rounding: brightness is relative to black, contrast to the patch's own mean
// grey level, and in either order p = scale x + offset.
template <class R>
struct PasteJitter {
  R scale, offset, black;
};
MEDAD_HD bool needs_mean(const double* reals) { return reals[kPasteContrast] != 1; }
template <class R>
MEDAD_HD PasteJitter<R> paste_jitter(const double* reals, double mean) {
  const double b = reals[kPasteBrightness], c = reals[kPasteContrast], k = reals[kPasteBlack];
  const double offset = k * (1 - b) + (c == 1 ? 0 : b * (1 - c) * mean);
  return {R(b * c), R(offset), R(k)};
}

MEDAD_HD float paste_value(uint8_t x) { return float(x); }
template <class T>
MEDAD_HD auto paste_value(T x) {
  return to_float(x);
}

// A jittered level of the patch; of 8-bit images, one of 0 to 255.
template <class T, class R>
MEDAD_HD R patch_level(T x, const PasteJitter<R>& jitter) {
  R p = jitter.scale * R(paste_value(x)) + jitter.offset;
  if constexpr (sizeof(T) == 1) p = p < 0 ? R(0) : p > 255 ? R(255) : p;
  return p;
}

// x (1 - g) + p g, and x itself where g is 0; 8-bit levels are rounded to the nearest, halves up.
template <class T, class R>
MEDAD_HD T paste_mix(T image, R p, R g) {
  const R x = R(paste_value(image));
  const R mixed = x * (1 - g) + p * g;
  const R result = g == 0 ? x : mixed;
  if constexpr (sizeof(T) == 1) {
    return T(int(result + R(0.5)));
  } else {
    return from_float<T>(result);
  }
}

// Pixels of the crop that lie in its source: rows and columns, ends exclusive.
struct PasteCrop {
  int64_t first, last, begin, end;
  MEDAD_HD double count() const { return double(last - first) * double(end - begin); }
};
MEDAD_HD PasteCrop paste_crop(const PastePlan& plan, int64_t height, int64_t width) {
  const int64_t last = plan.source_row + plan.patch_height;
  const int64_t end = plan.source_column + plan.patch_width;
  PasteCrop crop = {plan.source_row > 0 ? plan.source_row : 0, last < height ? last : height,
                    plan.source_column > 0 ? plan.source_column : 0, end < width ? end : width};
  if (crop.last < crop.first) crop.last = crop.first;
  if (crop.end < crop.begin) crop.end = crop.begin;
  return crop;
}

// The distances of the rows of the shape that a blur may bring into the image.
struct PasteRows {
  int64_t first, end;          // rows of the shape in the gate's bounds
  int64_t nearest, distances;  // from the ellipse's centre
};
MEDAD_HD PasteRows paste_rows(const PastePlan& plan) {
  PasteRows rows = {plan.shape_top > plan.top ? plan.shape_top : plan.top,
                    plan.shape_bottom < plan.bottom ? plan.shape_bottom : plan.bottom, 0, 1};
  if (plan.ellipse) {
    const int64_t a = paste_distance(plan, rows.first), b = paste_distance(plan, rows.end - 1);
    const bool inside = rows.first <= plan.centre_row && plan.centre_row < rows.end;
    rows.nearest = inside ? 0 : a < b ? a : b;
    rows.distances = (a > b ? a : b) - rows.nearest + 1;
  }
  return rows;
}

// floor(rank * count), the place of the centre among `count` pixels.
MEDAD_HD int64_t paste_place(double rank, int64_t count) {
  const double place = rank > 0 ? rank * double(count) : 0;
  return place < double(count) ? int64_t(place) : count - 1;
}

// Plain data only, since each instruction set's kernel file sees it.
struct PasteJob {
  const void* images;
  const uint8_t* masks;  // null where absent
  const void* sources;
  const int64_t* integers;
  const double* reals;
  void* out;
  void* gate;
  DType dtype;
  int64_t batch, channels, height, width;
  int64_t source_count, source_height, source_width;
  bool exact;
  void* scratch;  // for the GPU
  int threads;
};

// How the GPU shares out its scratch, in bytes from its start, and its work. Nothing depends on the
// device, so that its memory can be taken before it is known.
struct PasteScratch {
  static constexpr int kParts = 4;               // blocks that prepare an image
  static constexpr int kSharedBytes = 64 << 10;  // what every GPU since sm_75 has
  static constexpr int kRowBytes = 48 << 10;

  int64_t plans, sums, rows, row_lines, column_lines, total;
  int warps;            // of a block that prepares an image
  bool rows_in_shared;  // two lines a warp
  int strip;            // columns that a block pastes
  bool columns_in_shared;
};

inline PasteScratch paste_scratch(int64_t batch, int64_t height, int64_t width, bool wide) {
  const int64_t value = wide ? 8 : 4;
  PasteScratch scratch{};
  const auto take = [&](int64_t bytes) {
    const int64_t start = scratch.total;
    scratch.total += (bytes + 255) / 256 * 256;
    return start;
  };
  scratch.plans = take(batch * int64_t(sizeof(PastePlan)));
  scratch.sums = take(batch * PasteScratch::kParts * int64_t(sizeof(double)));
  scratch.rows = take(batch * height * width * value);
  for (scratch.warps = 16; scratch.warps > 4; scratch.warps /= 2) {
    if (scratch.warps * 2 * width * value <= PasteScratch::kRowBytes) break;
  }
  const int64_t lines = scratch.warps * 2 * width * value;
  scratch.rows_in_shared = lines <= PasteScratch::kRowBytes;
  scratch.row_lines = take(scratch.rows_in_shared ? 0 : batch * PasteScratch::kParts * lines);
  for (scratch.strip = 32; scratch.strip > 8; scratch.strip /= 2) {
    if (2 * height * scratch.strip * value <= PasteScratch::kSharedBytes) break;
  }
  scratch.columns_in_shared = 2 * height * scratch.strip * value <= PasteScratch::kSharedBytes;
  if (!scratch.columns_in_shared) scratch.strip = 32;
  const int64_t strips = (width + scratch.strip - 1) / scratch.strip;
  scratch.column_lines =
      take(scratch.columns_in_shared ? 0 : batch * strips * 2 * height * scratch.strip * value);
  return scratch;
}

MEDAD_DECLARE_CPU(anatomy_paste_cpu, (const PasteJob& job))
void anatomy_paste_cuda(const PasteJob& job, const Launch& launch);

}  // namespace medad
