// PatchNCE on the CPU: bound by the multiplications, 2 S S D each for logits, query and key
// gradient.
//
// One image at a time: a group of rows forms its logits in a tile that stays in the second-level
// cache, softmax turns the tile into g in place, and g multiplies the packed keys (and queries).
// Neither the logits nor g are ever stored whole. Threads take whole images; images that are left
// over, too few to go round, are shared by the team row by row. Every number is a sum in one fixed
// order, so results do not depend on the number of threads or on an image's neighbours.

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/patch_nce_loss/patch_nce_loss.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace medad::MEDAD_ISA {
namespace {

// Elements of the logits tile and of a block of packed keys: half a megabyte and a quarter in
// float32, so that both fit the 1 MiB second-level cache of current server cores.
constexpr int64_t kTileElements = 1 << 17;
constexpr int64_t kBlockElements = 1 << 16;
constexpr int64_t kSkew = 16;  // elements added to the tile's rows: a power of two would share sets

// Multiply-adds of the logits below which one thread is done before a second has been woken.
constexpr int64_t kWorkForThreads = 1 << 21;

template <class T>
struct Plan {
  int64_t size, depth;
  int64_t step;         // of the tile's rows
  int64_t group;        // rows that the tile holds
  int64_t block;        // keys that are packed at once, a multiple of the panel
  int64_t wide_panels;  // panels across `depth`

  MEDAD_INLINE Plan(int64_t size_, int64_t depth_) : size(size_), depth(depth_) {
    const int64_t width = round_up(size, kPanel<T>);
    step = width + kSkew;
    group = smaller(size, bigger(1, kTileElements / step / kTileRows) * kTileRows);
    block = smaller(width, bigger(1, kBlockElements / depth / kPanel<T>) * kPanel<T>);
    wide_panels = round_up(depth, kPanel<T>) / kPanel<T>;
  }
  MEDAD_INLINE bool one_block() const { return size <= block; }
  MEDAD_INLINE int64_t tile_elements() const { return group * step; }
  MEDAD_INLINE int64_t transposed_elements() const { return block * depth; }
  MEDAD_INLINE int64_t wide_elements() const {
    return bigger(block, group) * wide_panels * kPanel<T>;
  }
  MEDAD_INLINE int64_t elements() const {
    return tile_elements() + transposed_elements() + wide_elements();
  }
};

// Row loss from the row's logits (before the division by T); turns them into w (p - [positive]) /
// T.
//
// The positive is kept out of the sum, so that neither log(sum) - l nor p - 1 cancels where the
// positive wins by far: both stay accurate relative to themselves.
template <class T>
MEDAD_INLINE T softmax_row(T* logits, int64_t size, int64_t positive, T inverse_temperature,
                           bool exact_cut, bool gradient, T weight) {
  constexpr int kWidth = kLanes<T>;
  const int64_t width = round_up(size, kPanel<T>);
  for (int64_t j = size; j < width; ++j) logits[j] = -T(__builtin_inf());

  Vector<T> largest = load<T>(logits);
  for (int64_t j = kWidth; j < width; j += kWidth) largest = larger(largest, load<T>(logits + j));
  T top = horizontal_max<T>(largest);
  if (exact_cut && top < T(kCutFill)) top = T(kCutFill);

  const T distance = (logits[positive] - top) * inverse_temperature;
  const T own = exp_of_negative(broadcast(distance))[0];
  logits[positive] = -T(__builtin_inf());
  const Vector<T> tops = broadcast(top), scale = broadcast(inverse_temperature);
  Vector<T> sums = {};
  for (int64_t j = 0; j < width; j += kWidth) {
    const Vector<T> e = exp_of_negative((load<T>(logits + j) - tops) * scale);
    store<T>(logits + j, e);
    sums += e;
  }
  T others = horizontal_sum<T>(sums);
  if (exact_cut) others += T(__builtin_exp(double((T(kCutFill) - top) * inverse_temperature)));
  const T sum = own + others;

  if (gradient) {
    const T factor = weight * inverse_temperature / sum;
    const Vector<T> factors = broadcast(factor);
    for (int64_t j = 0; j < width; j += kWidth) store<T>(logits + j, load<T>(logits + j) * factors);
    logits[positive] = -others * factor;
  }
  if (distance > T(-1)) return T(__builtin_log1p(double(others / own)));
  return T(__builtin_log(double(sum))) - distance;
}

// Image `number` of the layer, by the whole team, in `workspace` of Plan::elements() elements.
template <class T>
void process_image(const PatchNceLayer& layer, int64_t number, const PatchNceJob& job,
                   const Plan<T>& plan, T* workspace, const Team& team) {
  const int64_t size = plan.size, depth = plan.depth, offset = number * size;
  const T* query = static_cast<const T*>(layer.query) + offset * depth;
  const T* key = static_cast<const T*>(layer.key) + offset * depth;
  const T* weights = static_cast<const T*>(layer.weight);
  T* row_losses = static_cast<T*>(layer.rows) + offset;
  T* query_gradient = static_cast<T*>(layer.query_gradient);
  T* key_gradient = static_cast<T*>(layer.key_gradient);
  const bool gradient = query_gradient || key_gradient;
  const T inverse_temperature = T(1 / job.temperature);
  T* tile = workspace;
  T* transposed = tile + plan.tile_elements();
  T* wide = transposed + plan.transposed_elements();

  for (int64_t first = 0; first < size; first += plan.group) {
    const int64_t rows = smaller(plan.group, size - first);
    const int64_t parts = (rows + kTileRows - 1) / kTileRows;
    const int64_t my_first = part_begin(parts, team.index, team.size);
    const int64_t my_last = part_begin(parts, team.index + 1, team.size);

    for (int64_t from = 0; from < size; from += plan.block) {
      const int64_t columns = smaller(plan.block, size - from);
      if (first == 0 || !plan.one_block()) {
        for (int64_t c = team.index * kPanel<T>; c < columns; c += team.size * kPanel<T>) {
          pack_panel_transposed<T>(key + (from + c) * depth, depth, depth, columns - c,
                                   transposed + c * depth);
        }
        team.barrier();
      }
      for (int64_t part = my_first; part < my_last; ++part) {
        const int64_t row = part_begin(rows, part, parts);
        const int64_t count = part_begin(rows, part + 1, parts) - row;
        for (int64_t c = 0; c < columns; c += kPanel<T>) {
          multiply_rows<T>(count, query + (first + row) * depth, depth, 1, transposed + c * depth,
                           depth, tile + row * plan.step + from + c, plan.step, false);
        }
      }
      if (!plan.one_block()) team.barrier();
    }

    for (int64_t i = part_begin(rows, my_first, parts); i < part_begin(rows, my_last, parts); ++i) {
      const int64_t row = first + i;
      const T weight = weights ? weights[offset + row] : T(layer.uniform_weight);
      row_losses[row] = softmax_row<T>(tile + i * plan.step, size, row, inverse_temperature,
                                       job.exact_cut, gradient, weight);
    }

    if (query_gradient) {
      for (int64_t from = 0; from < size; from += plan.block) {
        const int64_t columns = smaller(plan.block, size - from);
        // The key gradient below packs queries into the same place.
        if (first == 0 || !plan.one_block() || key_gradient) {
          for (int64_t p = team.index; p < plan.wide_panels; p += team.size) {
            pack_panel<T>(key + from * depth + p * kPanel<T>, depth, columns, depth - p * kPanel<T>,
                          wide + p * columns * kPanel<T>);
          }
          team.barrier();
        }
        for (int64_t part = my_first; part < my_last; ++part) {
          const int64_t row = part_begin(rows, part, parts);
          multiply_wide<T>(part_begin(rows, part + 1, parts) - row, tile + row * plan.step + from,
                           plan.step, 1, wide, columns,
                           query_gradient + (offset + first + row) * depth, depth, from > 0);
        }
        if (!plan.one_block()) team.barrier();
      }
    }

    if (key_gradient) {
      team.barrier();  // the tile is whole, and nobody reads the packed keys any more
      for (int64_t p = team.index; p < plan.wide_panels; p += team.size) {
        pack_panel<T>(query + first * depth + p * kPanel<T>, depth, rows, depth - p * kPanel<T>,
                      wide + p * rows * kPanel<T>);
      }
      team.barrier();
      const int64_t key_parts = (size + kTileRows - 1) / kTileRows;
      const int64_t last = part_begin(key_parts, team.index + 1, team.size);
      for (int64_t part = part_begin(key_parts, team.index, team.size); part < last; ++part) {
        const int64_t column = part_begin(size, part, key_parts);
        multiply_wide<T>(part_begin(size, part + 1, key_parts) - column, tile + column, 1,
                         plan.step, wide, rows, key_gradient + (offset + column) * depth, depth,
                         first > 0);
      }
    }
    team.barrier();  // the next group overwrites the tile
  }
}

template <class T>
void run(const PatchNceJob& job) {
  const PatchNceLayer* layers = job.layers;
  int64_t images = 0, elements = 0, work = 0;
  for (int64_t l = 0; l < job.count; ++l) {
    if (layers[l].size == 0) continue;
    images += layers[l].groups;
    work += layers[l].groups * layers[l].size * layers[l].size * layers[l].depth;
    elements = bigger(elements, Plan<T>(layers[l].size, layers[l].depth).elements());
  }
  if (images == 0) return;
  elements = round_up(elements, 64);

  const auto process = [&](int64_t image, T* memory, const Team& team) {
    int64_t l = 0;
    for (; layers[l].size == 0 || image >= layers[l].groups; ++l) {
      if (layers[l].size > 0) image -= layers[l].groups;
    }
    process_image<T>(layers[l], image, job, Plan<T>(layers[l].size, layers[l].depth), memory, team);
  };

  // No parallel region for one thread: a forked child may not open one.
  const int threads = job.threads;
  if (threads == 1 || work < kWorkForThreads) {
    Workspace<T> workspace(elements);
    for (int64_t image = 0; image < images; ++image) process(image, workspace.data, {0, 1});
    return;
  }
  Workspace<T> workspace(elements * threads);
  const int64_t alone = images / threads * threads;
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const Team team{omp_get_thread_num(), omp_get_num_threads()};
#else
    const Team team{0, 1};
#endif
    T* own = workspace.data + elements * team.index;
#pragma omp for schedule(dynamic, 1)
    for (int64_t image = 0; image < alone; ++image) process(image, own, {0, 1});
    for (int64_t image = alone; image < images; ++image) process(image, workspace.data, team);
  }
}

}  // namespace

void patch_nce_loss_cpu(const PatchNceJob& job) {
  job.dtype == DType::kFloat64 ? run<double>(job) : run<float>(job);
}

}  // namespace medad::MEDAD_ISA
