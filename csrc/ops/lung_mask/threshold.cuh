// From gray values to the first mask: CLAHE and Otsu, one block an image. Included by gpu.cu only.
#pragma once

#include "ops/lung_mask/block.cuh"

namespace medad {
namespace {

constexpr int kSixteen = 16;  // pixels a vector load moves
constexpr int kBinsPerLane = kBins / kLanes;

// Calls visit(gray) for each pixel of the image.
template <class Visit>
__device__ __forceinline__ void each_gray(const Frame& frame, Visit visit) {
  const int64_t step = frame.aligned ? kSixteen : 1;
  each_word({frame.height, frame.width / step, 0}, [&](int64_t row, int64_t place) {
    const int64_t i = row * frame.width + place * step;
    if (!frame.aligned) return visit(int(frame.image[i]));
    const uint4 loaded = load_vector<uint4>(frame.image, i);
    const unsigned fours[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int j = 0; j < kSixteen; ++j) visit(int(fours[j / 4] >> (j % 4 * 8) & 0xff));
  });
}

__device__ __forceinline__ void clear_histograms(const Frame& frame) {
  for (int i = threadIdx.x; i < kWarps * kBins; i += kThreads) frame.histograms[i] = 0;
  __syncthreads();
}

__device__ __forceinline__ void count_in(const Frame& frame, int bin) {
  atomicAdd(&frame.histograms[warp_of() * kBins + bin], 1);
}

// Otsu's split of what has been counted; the same for all threads.
__device__ __forceinline__ int otsu_split(const Frame& frame) {
  MEDAD_SHARED(int, counts, kBins);
  MEDAD_SHARED(double, variances, kBins);
  MEDAD_SHARED(int, split, 1);
  __syncthreads();
  const int bin = int(threadIdx.x);
  if (bin < kBins) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += frame.histograms[w * kBins + bin];
    counts[bin] = sum;
  }
  __syncthreads();
  if (bin < kBins) {
    // Each split sums for itself, in the order in which one thread would: past 2^24 pixels the
    // roundings of float32 depend on it.
    float low = 0, high = 0;
    double low_moment = 0, high_moment = 0;
    for (int b = 0; b <= bin; ++b) {
      low += float(counts[b]);
      low_moment += double(float(counts[b])) * otsu_centre(b);
    }
    for (int b = kBins - 1; b > bin; --b) {
      high += float(counts[b]);
      high_moment += double(float(counts[b])) * otsu_centre(b);
    }
    const bool both = low > 0 && high > 0;
    variances[bin] = both ? otsu_variance(low, low_moment, high, high_moment) : -1.0;
  }
  __syncthreads();
  if (warp_of() == 0) {
    double best = -1;
    int best_bin = 0;
    for (int b = lane_of() * kBinsPerLane; b < (lane_of() + 1) * kBinsPerLane; ++b) {
      if (variances[b] > best) {
        best = variances[b];
        best_bin = b;
      }
    }
    for (int step = 1; step < kLanes; step *= 2) {
      const double other = __shfl_xor_sync(kAllLanes, best, step);
      const int other_bin = __shfl_xor_sync(kAllLanes, best_bin, step);
      // Of equal ones the first.
      if (other > best || (other == best && other_bin < best_bin)) {
        best = other;
        best_bin = other_bin;
      }
    }
    if (lane_of() == 0) split[0] = best_bin;
  }
  __syncthreads();
  return split[0];
}

// The histogram of a tile, clipped, becomes its levels by bin. One warp; a lane holds 8 bins.
__device__ __forceinline__ void levels_of(Span<int> histogram, Span<uint16_t> levels,
                                          const ClaheGrid& grid) {
  const int first_bin = lane_of() * kBinsPerLane;
  int bins[kBinsPerLane], excess = 0;
#pragma unroll
  for (int j = 0; j < kBinsPerLane; ++j) {
    bins[j] = histogram[first_bin + j];
    excess += bins[j] > grid.limit ? bins[j] - grid.limit : 0;
  }
  excess = warp_sum(excess);
  const int share = excess / kBins;
  int given = 0;
#pragma unroll
  for (int j = 0; j < kBinsPerLane; ++j) {
    const int cut = bins[j] < grid.limit ? bins[j] : grid.limit;
    bins[j] = clipped_bin(bins[j], grid.limit, share);
    given += bins[j] - cut;
  }
  excess -= warp_sum(given);
  while (excess > 0) {
    const int before = excess;
    for (int first = 0; first < kBins && excess > 0; ++first) {
      int under = 0;
#pragma unroll
      for (int j = 0; j < kBinsPerLane; ++j) under += bins[j] < grid.limit;
      under = warp_sum(under);
      const int step = under / excess > 1 ? under / excess : 1;
      given = 0;
#pragma unroll
      for (int j = 0; j < kBinsPerLane; ++j) {
        const int place = first_bin + j - first;
        const int more = place >= 0 && place % step == 0 && bins[j] < grid.limit;
        bins[j] += more;
        given += more;
      }
      excess -= warp_sum(given);
    }
    if (excess == before) break;
  }
#pragma unroll
  for (int j = 1; j < kBinsPerLane; ++j) bins[j] += bins[j - 1];
  int before = bins[kBinsPerLane - 1];
  for (int step = 1; step < kLanes; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, before, step);
    if (lane_of() >= step) before += other;
  }
  before -= bins[kBinsPerLane - 1];
#pragma unroll
  for (int j = 0; j < kBinsPerLane; ++j) {
    levels[first_bin + j] = uint16_t(clahe_level(before + bins[j], grid.scale));
  }
}

// frame.levels of all tiles, a warp a tile.
__device__ __forceinline__ void find_levels(const Frame& frame, const ClaheGrid& grid,
                                            Span<int> bin_of) {
  const Span<int> own = frame.histograms + warp_of() * kBins;
  for (int tile = warp_of(); tile < grid.rows * grid.columns; tile += kWarps) {
    for (int b = lane_of(); b < kBins; b += kLanes) own[b] = 0;
    __syncwarp();
    const int64_t top = tile / grid.columns * grid.tile_height;
    const int64_t left = tile % grid.columns * grid.tile_width;
    for (int64_t y = top; y < top + grid.tile_height; ++y) {
      const int64_t row = y < frame.height ? y : 2 * (frame.height - 1) - y;
      for (int64_t x = left + lane_of(); x < left + grid.tile_width; x += kLanes) {
        const int64_t column = x < frame.width ? x : 2 * (frame.width - 1) - x;
        atomicAdd(&own[bin_of[frame.image[row * frame.width + column]]], 1);
      }
    }
    __syncwarp();
    levels_of(own, frame.levels + int64_t(tile) * kBins, grid);
    __syncwarp();
  }
}

// The level of a pixel, blended from its four tiles.
__device__ __forceinline__ int equalised_at(const Frame& frame, const ClaheGrid& grid, int64_t y,
                                            int64_t x, int bin) {
  const int above = first_tile(y, grid.tile_height) * grid.columns;
  const int below = second_tile(y, grid.tile_height, grid.rows) * grid.columns;
  const int left = first_tile(x, grid.tile_width);
  const int right = second_tile(x, grid.tile_width, grid.columns);
  const int above_left = frame.levels[int64_t(above + left) * kBins + bin];
  const int above_right = frame.levels[int64_t(above + right) * kBins + bin];
  const int below_left = frame.levels[int64_t(below + left) * kBins + bin];
  const int below_right = frame.levels[int64_t(below + right) * kBins + bin];
  const int64_t down = blend_offset(y, grid.tile_height), across = blend_offset(x, grid.tile_width);
  if (grid.dyadic) {
    const int height = int(grid.tile_height), width = int(grid.tile_width);
    const int to_left = above_left * (height - int(down)) + below_left * int(down);
    const int to_right = above_right * (height - int(down)) + below_right * int(down);
    return (to_left * (width - int(across)) + to_right * int(across)) / (height * width);
  }
  const double weight_below = double(down) / double(grid.tile_height);
  const double weight_right = double(across) / double(grid.tile_width);
  return blend(above_left, above_right, below_left, below_right, 1 - weight_below, weight_below,
               1 - weight_right, weight_right);
}

// Bits of the pixels above the lowest level and up to Otsu's threshold.
__device__ __forceinline__ void pick_dark_levels(const Frame& frame, const ClaheGrid& grid) {
  MEDAD_SHARED(int, extremes, 4);  // of the gray values, then of the levels
  MEDAD_SHARED(int, bin_of, kGrays);
  if (threadIdx.x < 4) extremes[threadIdx.x] = threadIdx.x % 2 == 0 ? kLevels : -1;
  __syncthreads();
  int lowest = kLevels, highest = -1;
  each_gray(frame, [&](int gray) {
    lowest = gray < lowest ? gray : lowest;
    highest = gray > highest ? gray : highest;
  });
  atomicMin(&extremes[0], lowest);
  atomicMax(&extremes[1], highest);
  __syncthreads();
  if (threadIdx.x < kGrays) {
    const int gray = int(threadIdx.x);
    const bool there = extremes[0] <= gray && gray <= extremes[1];
    bin_of[gray] = there ? clahe_bin(gray, extremes[0], extremes[1]) : 0;
  }
  __syncthreads();
  find_levels(frame, grid, bin_of);
  __syncthreads();

  lowest = kLevels;
  highest = -1;
  each_word({frame.height, frame.width, 0}, [&](int64_t y, int64_t x) {
    const int64_t i = y * frame.width + x;
    const int level = equalised_at(frame, grid, y, x, bin_of[frame.image[i]]);
    frame.equalised[i] = uint16_t(level);
    lowest = level < lowest ? level : lowest;
    highest = level > highest ? level : highest;
  });
  atomicMin(&extremes[2], lowest);
  atomicMax(&extremes[3], highest);
  clear_histograms(frame);  // and wait for the others
  lowest = extremes[2];
  const int range = extremes[3] - lowest;
  int dark = 0;  // a flat image is all dark or not at all, and either way its mask is empty
  if (range > 0) {
    each_word({frame.height, frame.width, 0}, [&](int64_t y, int64_t x) {
      count_in(frame, otsu_bin(int(frame.equalised[y * frame.width + x]) - lowest, range));
    });
    dark = highest_dark(otsu_split(frame), range);
  }
  __syncthreads();
  each_word(frame.shape, [&](int64_t row, int64_t word) {
    const int64_t first = row * frame.width + word * kWordBits;
    const int count = word + 1 < frame.shape.words ? kWordBits : frame.shape.last_bits;
    uint32_t bits = 0;
    const auto place = [&](int i, int level) {
      bits |= uint32_t(level > lowest && level <= lowest + dark) << i;
    };
    if (frame.aligned && count == kWordBits) {
      for (int i = 0; i < kWordBits; i += 8) {
        const uint4 loaded = load_vector<uint4>(frame.equalised, first + i);
        const unsigned pairs[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        for (int j = 0; j < 4; ++j) {
          place(i + 2 * j, int(pairs[j] & 0xffff));
          place(i + 2 * j + 1, int(pairs[j] >> 16));
        }
      }
    } else {
      for (int i = 0; i < count; ++i) place(i, frame.equalised[first + i]);
    }
    frame.bits[row * frame.shape.words + word] = bits;
  });
  __syncthreads();
}

}  // namespace
}  // namespace medad
