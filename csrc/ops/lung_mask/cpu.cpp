// Lung masks on the CPU: images side by side, one thread each from beginning to end.
//
// Bound by table look-ups: CLAHE reads four levels a pixel. What follows it works on 64 pixels a
// word, or on runs of pixels, of which there are a hundredth as many. An image is one thread's work
// whatever their number: the same bits always.

#include <omp.h>

#include <new>

#include "core/cpu_level.h"
#include "core/simd.h"
#include "ops/lung_mask/bits.h"
#include "ops/lung_mask/cpu_clahe.h"
#include "ops/lung_mask/cpu_components.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad {
namespace MEDAD_ISA {
namespace {

constexpr int kByteBits = 8;

// Gives out parts of one block of memory, or, without a block, only counts them.
class Parts {
 public:
  explicit Parts(char* data) : data_(data) {}

  template <class T>
  T* take(int64_t count) {
    T* part = data_ ? reinterpret_cast<T*>(data_ + used_) : nullptr;
    used_ += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* data_;
  int64_t used_ = 0;
};

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

// Memory that is given back whatever happens; `new` because it throws where it must.
class Memory {
 public:
  explicit Memory(int64_t bytes)
      : data_(static_cast<char*>(::operator new(size_t(bytes), std::align_val_t(64)))) {}
  ~Memory() { ::operator delete(data_, std::align_val_t(64)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* data() const { return data_; }

 private:
  char* data_;
};

}  // namespace

void lung_mask_cpu(const LungJob& job) {
  const ClaheGrid grid = clahe_grid(job.height, job.width);
  Parts counted(nullptr);
  (void)Scratch(job, grid, counted);
  const int threads = int(job.batch < job.threads ? job.batch : job.threads);
  const Memory memory(counted.used() * threads);

  const auto work = [&](int64_t first, int64_t last, int64_t step, int thread) {
    Parts parts(memory.data() + counted.used() * thread);
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

}  // namespace MEDAD_ISA
}  // namespace medad
