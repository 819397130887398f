// Rows of one image on the CPU: the jittered patch, and its composite with the image.
// Included by anatomy_paste_cpu.cpp only.
#pragma once

#include "core/half.h"
#include "core/simd.h"
#include "ops/anatomy_paste/anatomy_paste.h"
#include "ops/anatomy_paste/cpu_gate.h"

namespace medad {
namespace MEDAD_ISA {
namespace {

// out = x (1 - g) + p g over a run of pixels; p is black without a patch.
template <bool kPatch, class T, class R>
void composite(const T* __restrict image, const T* __restrict patch, const R* __restrict gate,
               T* __restrict out, int64_t count, const PasteJitter<R> jitter) {
  for (int64_t i = 0; i < count; ++i) {
    const R p = kPatch ? patch_level(patch[i], jitter) : jitter.black;
    out[i] = paste_mix(image[i], p, gate[i]);
  }
}

template <bool kPatch>
void composite_pillow(const uint8_t* __restrict image, const uint8_t* __restrict patch,
                      const uint8_t* __restrict gate, uint8_t* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    // 16 bits hold all of it.
    const uint16_t a = image[i], g = gate[i], b = kPatch ? patch[i] : 0;
    const uint16_t t = uint16_t(a * uint16_t(255 - g) + b * g + 128);
    out[i] = uint8_t(uint16_t(t + (t >> 8)) >> 8);
  }
}

// Mean over the whole crop, of its grey levels. Partial sums in a fixed order.
template <class T>
double patch_mean(const T* source, const PastePlan& plan, int64_t channels, int64_t height,
                  int64_t width) {
  constexpr int kSums = 16;
  const PasteCrop crop = paste_crop(plan, height, width);
  double total = 0;
  for (int64_t channel = 0; channel < channels; ++channel) {
    double sums[kSums] = {};
    for (int64_t row = crop.first; row < crop.last; ++row) {
      const T* from = source + (channel * height + row) * width;
      int64_t i = crop.begin;
      for (; i + kSums <= crop.end; i += kSums) {
        for (int k = 0; k < kSums; ++k) sums[k] += double(paste_value(from[i + k]));
      }
      for (; i < crop.end; ++i) sums[0] += double(paste_value(from[i]));
    }
    double sum = 0;
    for (int k = 0; k < kSums; ++k) sum += sums[k];
    total += sum * paste_channel_weight(channel, channels);
  }
  return total / crop.count();
}

// Pillow's jitter as a table of 256 grey levels.
struct PillowJitter {
  uint8_t level[256];

  PillowJitter(const uint8_t* source, const PastePlan& plan, int64_t channels, int64_t height,
               int64_t width, const int64_t* integers, const double* reals) {
    const bool contrast_first = integers[kPasteJitterOrder] != 0;
    for (int v = 0; v < 256; ++v) level[v] = uint8_t(v);
    if (!contrast_first) blend(0, reals[kPasteBrightness]);
    if (reals[kPasteContrast] != 1) {
      blend(mean(source, plan, channels, height, width), reals[kPasteContrast]);
    }
    if (contrast_first) blend(0, reals[kPasteBrightness]);
  }

 private:
  void blend(int from, double factor) {
    for (int v = 0; v < 256; ++v) level[v] = uint8_t(pillow_blend(from, level[v], float(factor)));
  }

  // Of the levels so far, in Pillow's grey.
  int mean(const uint8_t* source, const PastePlan& plan, int64_t channels, int64_t height,
           int64_t width) const {
    const PasteCrop crop = paste_crop(plan, height, width);
    int64_t sum = 0;
    for (int64_t row = crop.first; row < crop.last; ++row) {
      const uint8_t* from = source + row * width;
      for (int64_t i = crop.begin; i < crop.end; ++i) {
        if (channels == 3) {
          uint32_t luma = 32768;
          for (int c = 0; c < 3; ++c) {
            luma += uint32_t(paste_luma(c)) * level[from[c * height * width + i]];
          }
          sum += luma >> 16;
        } else {
          for (int64_t c = 0; c < channels; ++c) sum += level[from[c * height * width + i]];
        }
      }
    }
    return int(double(sum) / (crop.count() * double(channels == 3 ? 1 : channels)) + 0.5);
  }
};

inline int64_t mask_row(const uint8_t* mask, int64_t width) {
  int64_t count = 0;
  for (int64_t i = 0; i < width; ++i) count += mask[i] != 0;
  return count;
}

}  // namespace
}  // namespace MEDAD_ISA
}  // namespace medad
