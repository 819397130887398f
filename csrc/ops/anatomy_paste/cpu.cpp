// Anatomy paste on the CPU, image by image: the centre, the blurred gate, the composite.
//
// An image's gate (256 KB at 256 x 256) stays in the cache between the blur and the composite;
// outside the gate's bounds the image is copied. Each image is worked on by one thread in one
// order: any number of threads, and any batch around an image, gives the same bits.

#include <omp.h>

#include <type_traits>

#include "core/workspace.h"
#include "ops/anatomy_paste/anatomy_paste.h"
#include "ops/anatomy_paste/cpu_gate.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kSerialPixels = 1 << 12;  // below: not worth waking threads

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

// The centre of one image's paste; `gated`: whether its mask has a pixel.
struct Centre {
  int64_t row, column;
  bool gated;
};

Centre centre_of(const PasteJob& job, int64_t image) {
  const int64_t* integers = job.integers + image * kPasteIntegers;
  const double rank = job.reals[image * kPasteReals + kPasteCentreRank];
  const bool given = integers[kPasteHasCentre] != 0;
  Centre centre = {integers[kPasteCentreRow], integers[kPasteCentreColumn], job.masks != nullptr};
  if (job.masks == nullptr) {
    if (given) return centre;
    const int64_t place = paste_place(rank, job.height * job.width);
    return {place / job.width, place % job.width, false};
  }
  const uint8_t* mask = job.masks + image * job.height * job.width;
  int64_t count = 0;
  for (int64_t row = 0; row < job.height; ++row) {
    count += mask_row(mask + row * job.width, job.width);
  }
  centre.gated = count > 0;
  if (given) return centre;
  if (count == 0) return {integers[kPasteFallbackRow], integers[kPasteFallbackColumn], false};
  int64_t place = paste_place(rank, count), row = 0;
  for (int64_t own; (own = mask_row(mask + row * job.width, job.width)) <= place; ++row) {
    place -= own;
  }
  int64_t column = 0;
  for (const uint8_t* pixel = mask + row * job.width; place > 0 || pixel[column] == 0; ++column) {
    place -= pixel[column] != 0;
  }
  return {row, column, true};
}

template <class T, class Blur, class Gate>
class Paste {
  using R = typename Blur::Real;

 public:
  explicit Paste(const PasteJob& job) : job_(job) {}

  int64_t scratch_bytes() const {
    return (gate_scratch(job_.height, job_.width) * int64_t(sizeof(typename Blur::Element)) +
            job_.width + 127) /
           64 * 64;
  }

  void image(int64_t image, char* scratch) const {
    const Centre centre = centre_of(job_, image);
    const int64_t* integers = job_.integers + image * kPasteIntegers;
    const double* reals = job_.reals + image * kPasteReals;
    const PastePlan plan =
        paste_plan(integers, reals, job_.height, job_.width, job_.source_height, job_.source_width,
                   job_.source_count, centre.row, centre.column, job_.exact);
    const int64_t plane = job_.height * job_.width, all = plane * job_.channels;
    const T* from = static_cast<const T*>(job_.images) + image * all;
    T* out = static_cast<T*>(job_.out) + image * all;
    Gate* gate = static_cast<Gate*>(job_.gate) + image * plane;
    const uint8_t* mask = centre.gated ? job_.masks + image * plane : nullptr;
    if (plan.top == plan.bottom) {
      __builtin_memcpy(out, from, size_t(all) * sizeof(T));
      __builtin_memset(gate, 0, size_t(plane) * sizeof(Gate));
      return;
    }
    clear_around(plan, gate);
    blur_shape<Blur>(plan, job_.height, job_.width,
                     reinterpret_cast<typename Blur::Element*>(scratch), gate);
    if (mask != nullptr) {
      for (int64_t row = plan.top; row < plan.bottom; ++row) {
        apply_mask(mask + row * job_.width + plan.left, gate + row * job_.width + plan.left,
                   plan.right - plan.left);
      }
    }
    int64_t rows = job_.height, columns = job_.width;
    const T* source = from;
    if (plan.source >= 0) {
      rows = job_.source_height;
      columns = job_.source_width;
      source = static_cast<const T*>(job_.sources) + plan.source * job_.channels * rows * columns;
    }
    if constexpr (sizeof(Gate) == 1) {
      const PillowJitter jitter(source, plan, job_.channels, rows, columns, integers, reals);
      uint8_t* line = reinterpret_cast<uint8_t*>(scratch + gate_scratch(job_.height, job_.width) *
                                                               sizeof(typename Blur::Element));
      each_row(plan, from, source, rows, columns, out, gate, PillowRow{jitter, line});
    } else {
      const double mean =
          needs_mean(reals) ? patch_mean(source, plan, job_.channels, rows, columns) : 0;
      each_row(plan, from, source, rows, columns, out, gate,
               SmoothRow{paste_jitter<R>(reals, mean)});
    }
  }

 private:
  struct SmoothRow {
    PasteJitter<R> jitter;
    template <bool kPatch>
    void run(const T* x, const T* p, const Gate* g, T* out, int64_t count) const {
      composite<kPatch, T, R>(x, p, g, out, count, jitter);
    }
  };
  struct PillowRow {
    const PillowJitter& jitter;
    uint8_t* line;
    template <bool kPatch>
    void run(const T* x, const T* p, const Gate* g, T* out, int64_t count) const {
      if constexpr (kPatch) {
        for (int64_t i = 0; i < count; ++i) line[i] = jitter.level[p[i]];
      }
      composite_pillow<kPatch>(x, line, g, out, count);
    }
  };

  void clear_around(const PastePlan& plan, Gate* gate) const {
    const int64_t width = job_.width;
    __builtin_memset(gate, 0, size_t(plan.top * width) * sizeof(Gate));
    for (int64_t row = plan.top; row < plan.bottom; ++row) {
      __builtin_memset(gate + row * width, 0, size_t(plan.left) * sizeof(Gate));
      __builtin_memset(gate + row * width + plan.right, 0,
                       size_t(width - plan.right) * sizeof(Gate));
    }
    __builtin_memset(gate + plan.bottom * width, 0,
                     size_t((job_.height - plan.bottom) * width) * sizeof(Gate));
  }

  static void apply_mask(const uint8_t* __restrict mask, Gate* __restrict gate, int64_t count) {
    for (int64_t i = 0; i < count; ++i) gate[i] = mask[i] != 0 ? gate[i] : Gate(0);
  }

  template <class Row>
  void each_row(const PastePlan& plan, const T* from, const T* source, int64_t rows,
                int64_t columns, T* out, const Gate* gate, const Row& run) const {
    const int64_t width = job_.width;
    const int64_t patch_from = paste_clamp(plan.from_column, plan.left, plan.right);
    const int64_t patch_to = paste_clamp(plan.to_column, patch_from, plan.right);
    for (int64_t c = 0; c < job_.channels; ++c) {
      const T* image = from + c * job_.height * width;
      T* to = out + c * job_.height * width;
      __builtin_memcpy(to, image, size_t(plan.top * width) * sizeof(T));
      for (int64_t row = plan.top; row < plan.bottom; ++row) {
        const int64_t at = row * width;
        __builtin_memcpy(to + at, image + at, size_t(plan.left) * sizeof(T));
        const auto part = [&](auto patch, int64_t begin, int64_t end) {
          constexpr bool kPatch = decltype(patch)::value;
          const T* pixels = nullptr;
          if (kPatch) {
            pixels = source + (c * rows + row - plan.patch_row + plan.source_row) * columns +
                     begin - plan.patch_column + plan.source_column;
          }
          run.template run<kPatch>(image + at + begin, pixels, gate + at + begin, to + at + begin,
                                   end - begin);
        };
        if (row >= plan.from_row && row < plan.to_row) {
          part(std::false_type(), plan.left, patch_from);
          part(std::true_type(), patch_from, patch_to);
          part(std::false_type(), patch_to, plan.right);
        } else {
          part(std::false_type(), plan.left, plan.right);
        }
        __builtin_memcpy(to + at + plan.right, image + at + plan.right,
                         size_t(width - plan.right) * sizeof(T));
      }
      __builtin_memcpy(to + plan.bottom * width, image + plan.bottom * width,
                       size_t((job_.height - plan.bottom) * width) * sizeof(T));
    }
  }

  const PasteJob& job_;
};

template <class T, class Blur, class Gate>
void run(const PasteJob& job) {
  const Paste<T, Blur, Gate> paste(job);
  int threads = job.threads < job.batch ? job.threads : int(job.batch);
  if (job.batch * job.height * job.width < kSerialPixels) threads = 1;
  const int64_t bytes = paste.scratch_bytes();
  const Workspace<char> memory(bytes * threads);
  if (threads == 1) {
    for (int64_t image = 0; image < job.batch; ++image) paste.image(image, memory.data);
    return;
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < job.batch; ++image) {
    paste.image(image, memory.data + bytes * omp_get_thread_num());
  }
}

}  // namespace

void anatomy_paste_cpu(const PasteJob& job) {
  if (job.exact) {
    run<uint8_t, PillowBlur, uint8_t>(job);
  } else if (job.dtype == DType::kUInt8) {
    run<uint8_t, SmoothBlur<float>, float>(job);
  } else {
    with_floating_type(job.dtype, [&](auto zero) {
      using T = decltype(zero);
      using R = typename Compute<T>::type;
      run<T, SmoothBlur<R>, R>(job);
    });
  }
}

}  // namespace medad::MEDAD_ISA
