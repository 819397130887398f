// Lung masks on the CPU: images side by side, one thread each from beginning to end.
//
// Bound by table look-ups: CLAHE reads four levels a pixel. What follows it works on 64 pixels a
// word, or on runs of pixels, of which there are a hundredth as many. An image is one thread's work
// whatever their number: the same bits always.

#include <omp.h>

#include "core/workspace.h"
#include "ops/lung_mask/bits.h"
#include "ops/lung_mask/cpu_clahe.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kWordBits = 64;
constexpr int kByteBits = 8;

// Connected components of a binary image, by union-find over the runs of its rows.
struct Component {
  int32_t area;
  int32_t top, bottom, left, right;  // the last row and column included
  bool at_border;
};

// Runs in raster order, and the component of each: components are numbered by their first pixels.
struct Runs {
  int32_t *first, *last;  // columns, both included
  int32_t* component;
  int32_t* row_start;  // height + 1 of them
  Component* components;
  int32_t count;
};

MEDAD_INLINE void append_places(uint64_t word, int32_t base, int32_t* to, int32_t& count) {
  for (; word != 0; word &= word - 1) to[count++] = base + __builtin_ctzll(word);
}

MEDAD_INLINE void find_runs(const uint64_t* image, const BitShape& shape, Runs& runs) {
  int32_t starts = 0, ends = 0;
  for (int64_t y = 0; y < shape.height; ++y, image += shape.words) {
    runs.row_start[y] = starts;
    for (int64_t w = 0; w < shape.words; ++w) {
      if (image[w] == 0) continue;
      const Neighbours<uint64_t> at = beside<uint64_t>(image, shape, w);
      append_places(at.here & ~at.left, int32_t(w * kWordBits), runs.first, starts);
      append_places(at.here & ~at.right, int32_t(w * kWordBits), runs.last, ends);
    }
  }
  runs.row_start[shape.height] = starts;
}

MEDAD_INLINE int32_t root_of(int32_t* parent, int32_t run) {
  while (parent[run] != run) {
    parent[run] = parent[parent[run]];
    run = parent[run];
  }
  return run;
}

// Joins runs of neighbouring rows whose columns overlap, or, with `reach` 1, touch at a corner.
MEDAD_INLINE void join_runs(Runs& runs, int64_t height, int reach) {
  int32_t* parent = runs.component;
  for (int32_t r = 0; r < runs.row_start[height]; ++r) parent[r] = r;
  for (int64_t y = 1; y < height; ++y) {
    int32_t above = runs.row_start[y - 1];
    const int32_t end_above = runs.row_start[y], end = runs.row_start[y + 1];
    for (int32_t r = runs.row_start[y]; r < end; ++r) {
      while (above < end_above && runs.last[above] + reach < runs.first[r]) ++above;
      for (int32_t a = above; a < end_above && runs.first[a] <= runs.last[r] + reach; ++a) {
        const int32_t one = root_of(parent, a), other = root_of(parent, r);
        // The smaller number is the root: that of the first pixel.
        if (one < other) {
          parent[other] = one;
        } else {
          parent[one] = other;
        }
      }
    }
  }
}

MEDAD_INLINE void measure(Runs& runs, int64_t height, int64_t width) {
  runs.count = 0;
  for (int64_t y = 0; y < height; ++y) {
    const int32_t row = int32_t(y);
    const bool outer = y == 0 || y == height - 1;
    for (int32_t r = runs.row_start[y]; r < runs.row_start[y + 1]; ++r) {
      const int32_t first = runs.first[r], last = runs.last[r];
      const bool at_border = outer || first == 0 || last == width - 1;
      const int32_t parent = runs.component[r];
      if (parent == r) {
        runs.component[r] = runs.count;
        runs.components[runs.count++] = {last - first + 1, row, row, first, last, at_border};
        continue;
      }
      // Parents come before their children and have been numbered.
      runs.component[r] = runs.component[parent];
      Component& own = runs.components[runs.component[r]];
      own.area += last - first + 1;
      own.bottom = row;
      own.left = first < own.left ? first : own.left;
      own.right = last > own.right ? last : own.right;
      own.at_border |= at_border;
    }
  }
}

// All components, 8-connected with `reach` 1, 4-connected with 0.
MEDAD_INLINE void label(const uint64_t* image, const BitShape& shape, int64_t width, int reach,
                        Runs& runs) {
  find_runs(image, shape, runs);
  join_runs(runs, shape.height, reach);
  measure(runs, shape.height, width);
}

MEDAD_INLINE void set_columns(uint64_t* row, int32_t first, int32_t last) {
  for (int64_t w = first / kWordBits; w <= last / kWordBits; ++w) {
    row[w] |= between_columns<uint64_t>(w, first, last);
  }
}

// The image of the components that `keep` accepts.
template <class Keep>
MEDAD_INLINE void draw(const Runs& runs, const BitShape& shape, uint64_t* image, Keep keep) {
  for (int64_t i = 0; i < shape.height * shape.words; ++i) image[i] = 0;
  for (int64_t y = 0; y < shape.height; ++y) {
    for (int32_t r = runs.row_start[y]; r < runs.row_start[y + 1]; ++r) {
      if (keep(runs.component[r])) {
        set_columns(image + y * shape.words, runs.first[r], runs.last[r]);
      }
    }
  }
}

// Pixels of a component that are not set in `erased`.
MEDAD_INLINE int32_t area_left(const Runs& runs, const BitShape& shape, int32_t component,
                               const uint64_t* erased) {
  const Component& own = runs.components[component];
  int32_t area = own.area;
  for (int32_t y = own.top; y <= own.bottom; ++y) {
    const uint64_t* row = erased + y * shape.words;
    for (int32_t r = runs.row_start[y]; r < runs.row_start[y + 1]; ++r) {
      if (runs.component[r] != component) continue;
      for (int64_t w = runs.first[r] / kWordBits; w <= runs.last[r] / kWordBits; ++w) {
        const uint64_t mine = between_columns<uint64_t>(w, runs.first[r], runs.last[r]);
        area -= __builtin_popcountll(row[w] & mine);
      }
    }
  }
  return area;
}

// The memory of one thread.
struct Scratch {
  uint16_t *equalised, *levels;
  uint32_t *pairs, *level_counts;
  BlendRow row;
  uint64_t *image, *other;
  Runs runs;

  Scratch(const LungJob& job, const ClaheGrid& grid, Parts& parts) {
    const BitShape shape = bit_shape<uint64_t>(job.height, job.width);
    equalised = parts.take<uint16_t>(job.height * job.width);
    levels = parts.take<uint16_t>(int64_t(grid.columns) * kGrays);
    pairs = parts.take<uint32_t>(int64_t(grid.rows) * (grid.columns + 1) * kGrays);
    level_counts = parts.take<uint32_t>(kLevels);
    row.above = parts.take<uint32_t>(job.width);
    row.below = parts.take<uint32_t>(job.width);
    row.left = parts.take<double>(job.width);
    row.right = parts.take<double>(job.width);
    row.whole_left = parts.take<uint32_t>(job.width);
    row.whole_right = parts.take<uint32_t>(job.width);
    image = parts.take<uint64_t>(shape.height * shape.words);
    other = parts.take<uint64_t>(shape.height * shape.words);
    const int64_t most = most_runs(job.height, job.width);
    runs.first = parts.take<int32_t>(most);
    runs.last = parts.take<int32_t>(most);
    runs.component = parts.take<int32_t>(most);
    runs.row_start = parts.take<int32_t>(job.height + 1);
    runs.components = parts.take<Component>(most_components(job.height, job.width));
  }
};

class Segmentation {
 public:
  Segmentation(const LungJob& job, const ClaheGrid& grid, Scratch& scratch)
      : job_(job),
        grid_(grid),
        shape_(bit_shape<uint64_t>(job.height, job.width)),
        at_(scratch),
        pixels_(job.height * job.width),
        words_(shape_.height * shape_.words) {
    prepare_blend();
  }

  void reference(const uint8_t* image, uint8_t* out) {
    equalise(image);
    pick_dark_levels();
    open();
    clear_border();
    erode_or_dilate<true>();
    label(at_.image, shape_, job_.width, 1, at_.runs);
    erase_small_boxes();
    for (int64_t i = 0; i < words_; ++i) at_.image[i] &= ~at_.other[i];
    unpack(out);
  }

  void clean(const uint8_t* image, uint8_t* out) {
    equalise(image);
    pick_dark_levels();
    open();
    clear_border();
    const int64_t reach = closing_reach(job_.height, job_.width);
    for (int64_t i = 0; i < reach; ++i) erode_or_dilate<true>();
    for (int64_t i = 0; i < reach; ++i) erode_or_dilate<false>();
    keep_two_largest();
    fill_holes();
    unpack(out);
  }

 private:
  void prepare_blend() {
    for (int64_t x = 0; x < job_.width; ++x) {
      const int64_t offset = blend_offset(x, grid_.tile_width);
      at_.row.right[x] = double(offset) / double(grid_.tile_width);
      at_.row.left[x] = 1 - at_.row.right[x];
      at_.row.whole_right[x] = uint32_t(offset);
      at_.row.whole_left[x] = uint32_t(grid_.tile_width - offset);
    }
  }

  void equalise(const uint8_t* image) {
    uint8_t lowest = 255, highest = 0;
    for (int64_t i = 0; i < pixels_; ++i) {
      lowest = image[i] < lowest ? image[i] : lowest;
      highest = image[i] > highest ? image[i] : highest;
    }
    uint8_t bin_of[kGrays] = {};
    for (int gray = lowest; gray <= highest; ++gray) {
      bin_of[gray] = uint8_t(clahe_bin(gray, lowest, highest));
    }
    for (int64_t r = 0; r < grid_.rows; ++r) {
      row_pairs(image, job_.height, job_.width, grid_, r, bin_of, at_.levels,
                at_.pairs + r * (grid_.columns + 1) * kGrays);
    }
    for (int64_t y = 0; y < job_.height; ++y) {
      look_up_row(image + y * job_.width, at_.pairs, grid_, y, job_.width, at_.row);
      uint16_t* to = at_.equalised + y * job_.width;
      if (grid_.dyadic) {
        blend_row_dyadic(at_.row, grid_, y, job_.width, to);
      } else {
        blend_row(at_.row, grid_, y, job_.width, to);
      }
    }
  }

  // Above the lowest level, up to Otsu's threshold.
  void pick_dark_levels() {
    for (int i = 0; i < kLevels; ++i) at_.level_counts[i] = 0;
    for (int64_t i = 0; i < pixels_; ++i) ++at_.level_counts[at_.equalised[i]];
    int lowest = 0, highest = kLevels - 1;
    while (at_.level_counts[lowest] == 0) ++lowest;
    while (at_.level_counts[highest] == 0) --highest;
    const int range = highest - lowest;
    int dark = 0;  // a flat image is all dark or not at all, and either way its mask is empty
    if (range > 0) {
      int64_t counts[kBins] = {};
      for (int b = 0; b < kBins; ++b) {
        const int64_t last = lowest + last_of_otsu_bin(b, range);
        for (int64_t i = lowest + last_of_otsu_bin(b - 1, range) + 1; i <= last; ++i) {
          counts[b] += at_.level_counts[i];
        }
      }
      dark = highest_dark(otsu_split(counts), range);
    }
    pack(uint16_t(lowest + 1), uint16_t(dark));
  }

  // Sets the bits of the pixels with `count` levels from `lowest` on.
  void pack(uint16_t lowest, uint16_t count) {
    const uint16_t* from = at_.equalised;
    for (int64_t y = 0; y < shape_.height; ++y, from += job_.width) {
      for (int64_t w = 0; w < shape_.words; ++w) {
        const int64_t first = w * kWordBits;
        const int64_t left = job_.width - first < kWordBits ? job_.width - first : kWordBits;
        uint8_t inside[kWordBits] = {};
        if (left == kWordBits) {
          for (int i = 0; i < kWordBits; ++i)
            inside[i] = uint16_t(from[first + i] - lowest) < count;
        } else {
          for (int i = 0; i < left; ++i) inside[i] = uint16_t(from[first + i] - lowest) < count;
        }
        uint64_t word = 0;
        for (int byte = 0; byte < kWordBits / kByteBits; ++byte) {
          uint64_t eight;
          __builtin_memcpy(&eight, inside + byte * kByteBits, sizeof eight);
          word |= (eight * 0x0102040810204080u >> 56) << (byte * kByteBits);
        }
        at_.image[y * shape_.words + w] = word;
      }
    }
  }

  // A byte of 0 or 1 for each bit.
  void unpack(uint8_t* out) {
    for (int64_t y = 0; y < shape_.height; ++y, out += job_.width) {
      for (int64_t w = 0; w < shape_.words; ++w) {
        uint8_t bytes[kWordBits];
        for (int byte = 0; byte < kWordBits / kByteBits; ++byte) {
          const uint64_t eight = at_.image[y * shape_.words + w] >> (byte * kByteBits) & 0xff;
          const uint64_t picked = eight * 0x0101010101010101u & 0x8040201008040201u;
          const uint64_t ones = ((picked + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
          __builtin_memcpy(bytes + byte * kByteBits, &ones, sizeof ones);
        }
        const int64_t first = w * kWordBits;
        if (first + kWordBits <= job_.width) {
          __builtin_memcpy(out + first, bytes, kWordBits);
        } else {
          __builtin_memcpy(out + first, bytes, size_t(job_.width - first));
        }
      }
    }
  }

  template <bool kDilate>
  void erode_or_dilate() {
    for (int64_t y = 0; y < shape_.height; ++y) {
      for (int64_t w = 0; w < shape_.words; ++w) {
        const uint64_t* image = at_.image;
        at_.other[y * shape_.words + w] = kDilate ? dilated<uint64_t>(image, shape_, y, w)
                                                  : eroded<uint64_t>(image, shape_, y, w);
      }
    }
    uint64_t* const image = at_.image;
    at_.image = at_.other;
    at_.other = image;
  }

  void open() {
    erode_or_dilate<false>();
    erode_or_dilate<true>();
  }

  void clear_border() {
    label(at_.image, shape_, job_.width, 1, at_.runs);
    draw(at_.runs, shape_, at_.image,
         [this](int32_t component) { return !at_.runs.components[component].at_border; });
  }

  // The published cascade: the bounding box of each small component goes, in the order of their
  // first pixels, and with it what lies in it of others, which may thereby become small themselves.
  void erase_small_boxes() {
    for (int64_t i = 0; i < words_; ++i) at_.other[i] = 0;
    for (int32_t c = 0; c < at_.runs.count; ++c) {
      const Component& own = at_.runs.components[c];
      if (own.area >= kSmallArea && area_left(at_.runs, shape_, c, at_.other) >= kSmallArea) {
        continue;
      }
      for (int32_t y = own.top; y <= own.bottom; ++y) {
        set_columns(at_.other + y * shape_.words, own.left, own.right);
      }
    }
  }

  void keep_two_largest() {
    label(at_.image, shape_, job_.width, 1, at_.runs);
    int32_t kept[2] = {-1, -1}, areas[2] = {0, 0};
    for (int32_t c = 0; c < at_.runs.count; ++c) {
      const Component& own = at_.runs.components[c];
      if (int64_t(own.area) * kLargeShare < pixels_) continue;
      if (own.area > areas[0]) {
        kept[1] = kept[0];
        areas[1] = areas[0];
        kept[0] = c;
        areas[0] = own.area;
      } else if (own.area > areas[1]) {
        kept[1] = c;
        areas[1] = own.area;
      }
    }
    draw(at_.runs, shape_, at_.image,
         [&](int32_t component) { return component == kept[0] || component == kept[1]; });
  }

  // Background that is not connected to the border becomes foreground.
  void fill_holes() {
    complement();
    label(at_.image, shape_, job_.width, 0, at_.runs);
    draw(at_.runs, shape_, at_.image,
         [this](int32_t component) { return at_.runs.components[component].at_border; });
    complement();
  }

  void complement() {
    for (int64_t y = 0; y < shape_.height; ++y) {
      for (int64_t w = 0; w < shape_.words; ++w) {
        uint64_t& word = at_.image[y * shape_.words + w];
        word = ~word & whole_word<uint64_t>(shape_, w);
      }
    }
  }

  const LungJob& job_;
  const ClaheGrid& grid_;
  BitShape shape_;
  Scratch& at_;
  int64_t pixels_, words_;
};

}  // namespace

void lung_mask_cpu(const LungJob& job) {
  const ClaheGrid grid = clahe_grid(job.height, job.width);
  Parts counted{nullptr};
  (void)Scratch(job, grid, counted);
  const int threads = int(job.batch < job.threads ? job.batch : job.threads);
  const Workspace<char> memory(counted.used * threads);

  const auto work = [&](int64_t first, int64_t last, int64_t step, int thread) {
    Parts parts{memory.data + counted.used * thread};
    Scratch scratch(job, grid, parts);
    Segmentation segmentation(job, grid, scratch);
    const int64_t pixels = job.height * job.width;
    for (int64_t i = first; i < last; i += step) {
      if (job.mode == LungMode::kReference) {
        segmentation.reference(job.images + i * pixels, job.out + i * pixels);
      } else {
        segmentation.clean(job.images + i * pixels, job.out + i * pixels);
      }
    }
  };
  if (threads == 1) {
    work(0, job.batch, 1, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), job.batch, omp_get_num_threads(), omp_get_thread_num());
}

}  // namespace medad::MEDAD_ISA
