// Where the parts of an image's scratch on the GPU lie. The launcher, the kernel and the allocation
// share it.
#pragma once

#include "ops/lung_mask/bits.h"
#include "ops/lung_mask/lung_mask.h"

namespace medad {

// Offsets in bytes, each a multiple of 16.
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

}  // namespace medad
