// Connected components of a binary image, by union-find over the runs of its rows. For
// lung_mask_cpu.cpp only.
#pragma once

#include "core/simd.h"
#include "ops/lung_mask/bits.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int kWordBits = 64;

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

}  // namespace
}  // namespace medad::MEDAD_ISA
