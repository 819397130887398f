// What both kernels of anatomy_paste see of a job. Included by gpu.cu only.
#pragma once

#include <type_traits>

#include "core/gpu.cuh"
#include "ops/anatomy_paste/anatomy_paste.h"

namespace medad {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// T: of the images; G: of the gate; V: of the fixed-point values; R: what is computed in.
template <class T, class G, class V, class R>
struct DevicePaste {
  static constexpr bool kExact = sizeof(G) == 1;
  // Of paste_kernel on a multiprocessor: two, where the registers for two do not spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static constexpr int kBlocks = 1;
#else
  static constexpr int kBlocks = kExact || sizeof(V) == 8 ? 1 : 2;
#endif
  using Value = V;
  using Real = R;

  Span<const T> images, sources;
  Span<const uint8_t> masks;
  Span<const int64_t> integers;
  Span<const double> reals;
  Span<T> out;
  Span<G> gate;
  Span<PastePlan> plans;
  Span<double> sums;  // of the crops' grey levels, one a part
  Span<V> rows;       // (B, H, W): blurred rows of the shape, by distance
  Span<V> row_lines, column_lines;
  int64_t batch, channels, height, width;
  int64_t source_count, source_height, source_width;
  int strip;
  bool gated, aligned, rows_in_shared, columns_in_shared;
};

template <class T, class G, class V, class R>
DevicePaste<T, G, V, R> device_paste(const PasteJob& job, const PasteScratch& scratch) {
  const auto at = [&](int64_t place) { return static_cast<char*>(job.scratch) + place; };
  DevicePaste<T, G, V, R> paste{};
  const int64_t plane = job.height * job.width, pixels = job.batch * plane;
  paste.images = span_of_extent<T>(job.images, pixels * job.channels);
  paste.sources = span_of_extent<T>(
      job.sources, job.source_count * job.channels * job.source_height * job.source_width);
  paste.gated = job.masks != nullptr;
  paste.masks = span_of_extent<uint8_t>(job.masks, paste.gated ? pixels : 0);
  paste.integers = span_of_extent<int64_t>(job.integers, job.batch * kPasteIntegers);
  paste.reals = span_of_extent<double>(job.reals, job.batch * kPasteReals);
  paste.out = span_of_extent<T>(job.out, pixels * job.channels);
  paste.gate = span_of_extent<G>(job.gate, pixels);
  paste.plans = span_of_extent<PastePlan>(at(scratch.plans), job.batch);
  paste.sums = span_of_extent<double>(at(scratch.sums), job.batch * PasteScratch::kParts);
  paste.rows = span_of_extent<V>(at(scratch.rows), pixels);
  const auto bytes = [](int64_t from, int64_t to) { return (to - from) / int64_t(sizeof(V)); };
  paste.row_lines =
      span_of_extent<V>(at(scratch.row_lines), bytes(scratch.row_lines, scratch.column_lines));
  paste.column_lines =
      span_of_extent<V>(at(scratch.column_lines), bytes(scratch.column_lines, scratch.total));
  paste.batch = job.batch;
  paste.channels = job.channels;
  paste.height = job.height;
  paste.width = job.width;
  paste.source_count = job.source_count;
  paste.source_height = job.source_height;
  paste.source_width = job.source_width;
  paste.strip = scratch.strip;
  paste.rows_in_shared = scratch.rows_in_shared;
  paste.columns_in_shared = scratch.columns_in_shared;
  // Four pixels at once: every row must start where four do.
  const auto multiple = [](const void* data, int64_t of) {
    return reinterpret_cast<uintptr_t>(data) % uintptr_t(of) == 0;
  };
  const auto vector_bytes = [](int64_t size) { return size * 4 < 16 ? size * 4 : int64_t(16); };
  paste.aligned = job.width % 4 == 0 && multiple(job.images, vector_bytes(sizeof(T))) &&
                  multiple(job.out, vector_bytes(sizeof(T))) &&
                  multiple(job.gate, vector_bytes(sizeof(G))) && multiple(job.masks, 4);
  return paste;
}

// One box of the blur, and the gate that a blurred value is.
template <class Paste>
struct DeviceBox {
  using V = typename Paste::Value;
  using R = typename Paste::Real;
  V full;
  R part, inverse, unit;
  uint32_t inner, outer;

  __device__ __forceinline__ explicit DeviceBox(const PastePlan& plan) {
    if (Paste::kExact) {
      inner = plan.inner;
      outer = plan.outer;
      full = V(plan.opacity * 255 + 0.5);
    } else {
      part = R(plan.part);
      inverse = 1 / (R(2 * plan.whole + 1) + 2 * part);
      full = V(1) << paste_bits<R>(plan.whole);
      unit = R(plan.opacity) / R(full);
    }
  }
  __device__ __forceinline__ V box(V sum, V ends) const {
    if (Paste::kExact) {
      return V(pillow_box<uint32_t>(uint32_t(sum), uint32_t(ends), inner, outer));
    }
    return smooth_box<R, V>(sum, ends, part, inverse);
  }
};

// Whether the blur changes anything.
MEDAD_HD bool is_sharp(const PastePlan& plan) {
  return plan.whole == 0 && plan.part == 0 && plan.outer == 0;
}

// The grey level of a crop's pixel; `at` in its first channel.
template <class Paste>
__device__ __forceinline__ double crop_level(const Paste& paste, bool from_own, int64_t at,
                                             int64_t plane, bool brightened, double brightness) {
  const auto& source = from_own ? paste.images : paste.sources;
  double level = 0;
  if constexpr (Paste::kExact) {
    uint32_t luma = 32768, total = 0;
    for (int64_t c = 0; c < paste.channels; ++c) {
      int own = source[at + c * plane];
      if (brightened) own = pillow_blend(0, own, float(brightness));
      total += uint32_t(own);
      if (paste.channels == 3) luma += uint32_t(paste_luma(c)) * uint32_t(own);
    }
    level = paste.channels == 3 ? double(luma >> 16) : double(total) / double(paste.channels);
  } else {
    for (int64_t c = 0; c < paste.channels; ++c) {
      level +=
          double(paste_value(source[at + c * plane])) * paste_channel_weight(c, paste.channels);
    }
  }
  return level;
}

}  // namespace
}  // namespace medad
