// Patch discrepancy on the CPU: one pass over the features, then the resize.
//
// Bound by memory: each feature is read once, 3 multiply-adds a pair. Images are worked on in
// groups, so that their distances, which the resize reads next, are still in cache. Each position
// and each row of the map is computed by one thread in one order: any number of threads, and any
// batch around an image, gives the same bits.

#include <omp.h>

#include "core/workspace.h"
#include "ops/patch_discrepancy/cpu_block.h"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;     // distances of the images worked on at once
constexpr int64_t kStrip = 32;                 // rows of the map a task resizes
constexpr int64_t kGradientCache = 384 << 10;  // bytes of a block that its second pass finds in L2
constexpr int64_t kSerialElements = 1 << 14;   // below: not worth waking threads

// The distance of projected vectors: both sides of a block go through a two-layer head.
// Bound by arithmetic: 2 (C D1 + D1 D2) flops a position and side. A block's vectors, hidden layer
// and projections stay in L2, in panels of positions that the register tile reads front to back;
// weights are packed once a call. Nothing larger is ever stored.

constexpr int64_t kHeadPanels =
    2;  // of kPanel<R> positions: a block that leaves L2 room for weights

template <class R>
constexpr int64_t kHeadBlock = kHeadPanels * kPanel<R>;

// Tiles of kTileRows rows of weights.
inline int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Elements of packed weights: tiles of kTileRows rows, [tile][depth][kTileRows], the last one
// padded.
inline int64_t packed_size(int64_t rows, int64_t depth) {
  return tiles_of(rows) * kTileRows * depth;
}

template <class T>
inline void pack_weights(const T* weights, int64_t rows, int64_t depth, int64_t tile,
                         real_of<T>* packed) {
  real_of<T>* to = packed + tile * kTileRows * depth;
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kTileRows; ++r) {
      const int64_t row = tile * kTileRows + r;
      to[k * kTileRows + r] = row < rows ? to_float(weights[row * depth + k]) : real_of<T>(0);
    }
  }
}

// y (rows, kPanel) = packed weights (rows, depth) @ x (depth, kPanel) + bias, below 0 cut off at 0.
template <bool kRelu, class R, class T>
inline void linear(const R* packed, int64_t rows, int64_t depth, const R* x, const T* bias, R* y) {
  for (int64_t row = 0; row < rows; row += kTileRows) {
    multiply_rows<R>(smaller(kTileRows, rows - row), packed + row * depth, 1, kTileRows, x, depth,
                     y + row * kPanel<R>, kPanel<R>, false);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const R shift = to_float(bias[row]);
    R* values = y + row * kPanel<R>;
    for (int i = 0; i < kPanel<R>; ++i) {
      // A sum over no inputs has written nothing.
      const R value = (depth > 0 ? values[i] : R(0)) + shift;
      values[i] = kRelu && value < 0 ? R(0) : value;  // NaN stays NaN
    }
  }
}

// Scratch of one thread, in real numbers: the vectors, one panel's hidden layer, two projections.
template <class R>
inline int64_t head_scratch(const DiscrepancyLayer& layer) {
  return kPanel<R> * (layer.channels + layer.head.hidden) + 2 * kPanel<R> * layer.head.projected;
}

// The projections (D2, kPanel) of one panel of positions.
template <class T>
inline void project(const Block& panel, const DiscrepancySide& side, const real_of<T>* packed,
                    real_of<T>* scratch, real_of<T>* projected) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *panel.layer;
  const DiscrepancyHead& head = layer.head;
  R* x = scratch;
  R* hidden = x + kPanel<R> * layer.channels;
  pack<T>(panel, side, 0, layer.channels, x, kPanel<R>);
  // Lanes past the end are computed too: from zeros, never from what was left there.
  for (int64_t c = 0; c < layer.channels; ++c) {
    for (int64_t i = panel.count; i < kPanel<R>; ++i) x[c * kPanel<R> + i] = 0;
  }
  linear<true>(packed, head.hidden, layer.channels, x, static_cast<const T*>(head.b1), hidden);
  linear<false>(packed + packed_size(head.hidden, layer.channels), head.projected, head.hidden,
                hidden, static_cast<const T*>(head.b2), projected);
}

template <class T>
inline void block_head_distance(const Block& block, const real_of<T>* packed, real_of<T>* scratch,
                                real_of<T>* out) {
  using R = real_of<T>;
  const DiscrepancyLayer& layer = *block.layer;
  R* a = scratch + kPanel<R> * (layer.channels + layer.head.hidden);
  R* b = a + kPanel<R> * layer.head.projected;
  for (int64_t first = 0; first < block.count; first += kPanel<R>) {
    const Block panel = {block.layer, block.image, block.first + first,
                         smaller(kPanel<R>, block.count - first)};
    project<T>(panel, layer.features, packed, scratch, a);
    project<T>(panel, layer.reconstructed, packed, scratch, b);
    // The projections are a layer of their own: one image, one row of positions.
    DiscrepancyLayer flat{};
    flat.features = {a, 0, kPanel<R>, 1, 1};
    flat.reconstructed = {b, 0, kPanel<R>, 1, 1};
    flat.channels = layer.head.projected;
    flat.height = 1;
    flat.width = panel.count;
    block_distance<R>({&flat, 0, 0, panel.count}, out + first);
  }
}

// The bilinear resize of the layers' distances into the map, and its adjoint. Rows are resized
// along W first and then blended along H, so that the gather along W is done once per layer row and
// the rest is contiguous. The adjoint is formed by gathering in a fixed order.

// A layer's taps along W.
template <class M>
struct Columns {
  int32_t* first;
  int32_t* second;
  M* weight;  // of the second
};

template <class M>
inline void fill(const Columns<M>& columns, int64_t from, int64_t to) {
  for (int64_t x = 0; x < to; ++x) {
    const Tap tap = tap_of(x, from, to);
    columns.first[x] = int32_t(tap.first);
    columns.second[x] = int32_t(tap.second);
    columns.weight[x] = M(tap.weight);
  }
}

template <class M>
inline void resize_row(const M* from, const Columns<M>& columns, int64_t width, M* to) {
  for (int64_t x = 0; x < width; ++x) {
    const M left = from[columns.first[x]], right = from[columns.second[x]];
    to[x] = multiply_add(columns.weight[x], right - left, left);
  }
}

// Adds rows first .. last of one layer's resized distances to `out`, which starts at row `first`.
// `rows` has room for two resized rows.
template <class M>
inline void add_resized(const M* distances, const DiscrepancyLayer& layer,
                        const Columns<M>& columns, const DiscrepancyJob& job, int64_t first,
                        int64_t last, M* rows, M* out) {
  int64_t held[2] = {-1, -1};  // layer row y is kept in slot y % 2
  for (int64_t y = first; y < last; ++y) {
    const Tap tap = tap_of(y, layer.height, job.height);
    const int64_t wanted[2] = {tap.first, tap.second};
    for (int64_t row : wanted) {
      if (held[row % 2] == row) continue;
      resize_row(distances + row * layer.width, columns, job.width, rows + (row % 2) * job.width);
      held[row % 2] = row;
    }
    const M* above = rows + (tap.first % 2) * job.width;
    const M* below = rows + (tap.second % 2) * job.width;
    const M weight = M(tap.weight);
    M* to = out + (y - first) * job.width;
#pragma GCC ivdep
    for (int64_t x = 0; x < job.width; ++x) {
      to[x] += multiply_add(weight, below[x] - above[x], above[x]);
    }
  }
}

// Row `row` of a layer's share in the gradient of the map: the adjoint of add_resized. `sum` has
// room for one row of the map, `to` takes the layer's row.
template <class M>
inline void gather_row(const M* grad, const DiscrepancyLayer& layer, const Columns<M>& columns,
                       const DiscrepancyJob& job, int64_t row, M* sum, M* to) {
  for (int64_t x = 0; x < job.width; ++x) sum[x] = 0;
  // Rows of the map whose taps can reach this row: source coordinate within (row - 1, row + 1).
  int64_t y = ((2 * row - 1) * job.height) / (2 * layer.height) - 1;
  if (row <= 1 || y < 0) y = 0;
  for (; y < job.height; ++y) {
    const Tap tap = tap_of(y, layer.height, job.height);
    if (tap.first > row) break;
    double weight = tap.first == row ? 1 - tap.weight : 0;
    if (tap.second == row) weight += tap.weight;
    if (weight == 0 && tap.first != row && tap.second != row) continue;
    const M* from = grad + y * job.width;
    const M w = M(weight * job.scale);
#pragma GCC ivdep
    for (int64_t x = 0; x < job.width; ++x) sum[x] = multiply_add(w, from[x], sum[x]);
  }
  for (int64_t x = 0; x < layer.width; ++x) to[x] = 0;
  for (int64_t x = 0; x < job.width; ++x) {
    const M second = columns.weight[x] * sum[x];
    to[columns.first[x]] += sum[x] - second;
    to[columns.second[x]] += second;
  }
}

// What a layer has besides its description.
template <class T>
struct Prepared {
  int64_t map_start;    // of its distances within those of an image
  int64_t block;        // positions a block
  int64_t block_start;  // of its blocks within those of an image
  Columns<real_of<T>> columns;
  real_of<T>* packed;  // weights of its head
};

template <class T>
class Run {
  using R = real_of<T>;

 public:
  Run(const DiscrepancyJob& job, bool backward)
      : job_(job), backward_(backward), memory_(plan(job, backward)), parts_{memory_.data} {
    layers_ = parts_.take<Prepared<T>>(job.layer_count);
    for (int l = 0; l < job.layer_count; ++l) prepare(l);
    maps_ = parts_.take<R>(group_ * positions_);
    scratch_ = parts_.take<char>(threads_ * scratch_bytes_);
  }

  void forward() {
    in_threads([this](char* scratch) {
      pack_heads();
      for (int64_t image = 0; image < job_.batch; image += group_) {
        const int64_t images = smaller(group_, job_.batch - image);
        distances(image, images, scratch);
        resize(image, images, scratch);
      }
    });
  }

  void backward() {
    in_threads([this](char* scratch) {
      for (int64_t image = 0; image < job_.batch; image += group_) {
        const int64_t images = smaller(group_, job_.batch - image);
        gather(image, images, scratch);
        gradients(image, images);
      }
    });
  }

 private:
  // Sizes, and the bytes they come to.
  int64_t plan(const DiscrepancyJob& job, bool backward) {
    Parts all{nullptr};
    int64_t elements = 0;
    all.take<Prepared<T>>(job.layer_count);
    scratch_bytes_ = bytes_of(2 * job.width);
    for (int l = 0; l < job.layer_count; ++l) {
      const DiscrepancyLayer& layer = job.layers[l];
      positions_ += layer.height * layer.width;
      elements += layer.height * layer.width * (layer.channels + layer.head.hidden);
      take_columns(all, job.width);
      if (layer.head.w1 == nullptr) continue;
      all.take<R>(packed_elements(layer));
      scratch_bytes_ = bigger(scratch_bytes_, bytes_of(head_scratch<R>(layer)));
    }
    const int64_t fitting = kGroupBytes / (positions_ * int64_t(sizeof(R)));
    const int64_t groups = fitting < 1 ? job.batch : (job.batch + fitting - 1) / fitting;
    group_ = (job.batch + groups - 1) / groups;
    threads_ = elements * job.batch < kSerialElements && !backward ? 1 : job.threads;
    all.take<R>(group_ * positions_);
    all.take<char>(threads_ * scratch_bytes_);
    return all.used;
  }

  static int64_t bytes_of(int64_t count) { return round_up(count * int64_t(sizeof(R)), 64); }

  static Columns<R> take_columns(Parts& parts, int64_t width) {
    int32_t* first = parts.take<int32_t>(width);
    int32_t* second = parts.take<int32_t>(width);
    return {first, second, parts.take<R>(width)};
  }

  static int64_t packed_elements(const DiscrepancyLayer& layer) {
    return packed_size(layer.head.hidden, layer.channels) +
           packed_size(layer.head.projected, layer.head.hidden);
  }

  void prepare(int l) {
    const DiscrepancyLayer& layer = job_.layers[l];
    Prepared<T>& own = layers_[l];
    const int64_t positions = layer.height * layer.width;
    own.map_start = l == 0 ? 0 : layers_[l - 1].map_start + size_of(l - 1);
    own.block_start = blocks_;
    own.block = block_of<T>(layer, kMaxBlock);
    if (layer.head.w1 != nullptr) own.block = kHeadBlock<R>;
    if (backward_) {
      const int64_t fitting = kGradientCache / (2 * int64_t(sizeof(R)) * (layer.channels + 1));
      const int64_t rounded = fitting < 64 ? 64 : fitting / 64 * 64;
      own.block = smaller(own.block, rounded);
    }
    blocks_ += (positions + own.block - 1) / own.block;
    own.columns = take_columns(parts_, job_.width);
    fill(own.columns, layer.width, job_.width);
    own.packed = nullptr;
    if (layer.head.w1 != nullptr) own.packed = parts_.take<R>(packed_elements(layer));
  }

  int64_t size_of(int l) const { return job_.layers[l].height * job_.layers[l].width; }

  template <class Body>
  void in_threads(Body body) {
    if (threads_ == 1) {
      body(scratch_);
      return;
    }
#pragma omp parallel num_threads(threads_)
    body(scratch_ + omp_get_thread_num() * scratch_bytes_);
  }

  void pack_heads() {
    for (int l = 0; l < job_.layer_count; ++l) {
      const DiscrepancyLayer& layer = job_.layers[l];
      const DiscrepancyHead& head = layer.head;
      if (head.w1 == nullptr) continue;
      R* first = layers_[l].packed;
      R* second = first + packed_size(head.hidden, layer.channels);
      const int64_t tiles = tiles_of(head.hidden);
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles + tiles_of(head.projected); ++t) {
        if (t < tiles) {
          pack_weights(static_cast<const T*>(head.w1), head.hidden, layer.channels, t, first);
        } else {
          pack_weights(static_cast<const T*>(head.w2), head.projected, head.hidden, t - tiles,
                       second);
        }
      }
    }
  }

  // Calls visit(block, map) for each block of the images, `map` being its place in maps_.
  template <class Visit>
  void each_block(int64_t image, int64_t images, Visit visit) {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * blocks_; ++task) {
      const int64_t i = task / blocks_;
      int l = job_.layer_count - 1;
      while (layers_[l].block_start > task % blocks_) --l;
      const Prepared<T>& own = layers_[l];
      const int64_t first = (task % blocks_ - own.block_start) * own.block;
      const Block block = {&job_.layers[l], image + i, first,
                           smaller(own.block, size_of(l) - first)};
      visit(block, own, maps_ + i * positions_ + own.map_start + first);
    }
  }

  void distances(int64_t image, int64_t images, char* scratch) {
    each_block(image, images, [&](const Block& block, const Prepared<T>& own, R* map) {
      if (own.packed != nullptr) {
        block_head_distance<T>(block, own.packed, reinterpret_cast<R*>(scratch), map);
      } else {
        block_distance<T>(block, map);
      }
    });
  }

  void gradients(int64_t image, int64_t images) {
    each_block(image, images, [&](const Block& block, const Prepared<T>&, R* map) {
      block_gradient<T>(block, map);
    });
  }

  R* map_of_image(int64_t image, int l) const {
    const int64_t place = (job_.separate ? l * job_.batch : 0) + image;
    return static_cast<R*>(job_.map) + place * job_.height * job_.width;
  }

  void resize(int64_t image, int64_t images, char* scratch) {
    const int64_t strips = (job_.height + kStrip - 1) / kStrip;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * strips; ++task) {
      const int64_t i = task / strips, first = task % strips * kStrip;
      const int64_t last = smaller(first + kStrip, job_.height);
      const int64_t count = (last - first) * job_.width;
      for (int l = 0; l < job_.layer_count; ++l) {
        R* out = map_of_image(image + i, l) + first * job_.width;
        if (l == 0 || job_.separate) {
          for (int64_t p = 0; p < count; ++p) out[p] = 0;
        }
        add_resized(maps_ + i * positions_ + layers_[l].map_start, job_.layers[l],
                    layers_[l].columns, job_, first, last, reinterpret_cast<R*>(scratch), out);
        if (l == job_.layer_count - 1 && job_.scale != 1) {
          for (int64_t p = 0; p < count; ++p) out[p] *= R(job_.scale);
        }
      }
    }
  }

  void gather(int64_t image, int64_t images, char* scratch) {
    for (int l = 0; l < job_.layer_count; ++l) {
      const DiscrepancyLayer& layer = job_.layers[l];
#pragma omp for schedule(dynamic, 8)
      for (int64_t task = 0; task < images * layer.height; ++task) {
        const int64_t i = task / layer.height, row = task % layer.height;
        gather_row(map_of_image(image + i, l), layer, layers_[l].columns, job_, row,
                   reinterpret_cast<R*>(scratch),
                   maps_ + i * positions_ + layers_[l].map_start + row * layer.width);
      }
    }
  }

  const DiscrepancyJob& job_;
  bool backward_;
  int64_t positions_ = 0;  // of an image, over all layers
  int64_t blocks_ = 0;     // likewise
  int64_t group_ = 1;      // images worked on at once
  int64_t scratch_bytes_ = 0;
  int threads_ = 1;
  Workspace<char> memory_;
  Parts parts_;
  Prepared<T>* layers_;
  R* maps_;
  char* scratch_;
};

}  // namespace

void patch_discrepancy_cpu(const DiscrepancyJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { Run<decltype(zero)>(job, false).forward(); });
}

void patch_discrepancy_backward_cpu(const DiscrepancyJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { Run<decltype(zero)>(job, true).backward(); });
}

}  // namespace medad::MEDAD_ISA
