// NT-Xent on the CPU: bound by the multiplications, 4 N N D instead of the 6 of plain matrices.
//
// The similarities are symmetric: a tile of 128 x 128 of them, in the second-level cache, serves
// its rows and its columns, and only tiles on and above the diagonal are visited. Sums are formed
// in a first pass; a second one forms the tiles again, scales them and multiplies them with the
// rows of both sides. In round r the tile of blocks i and j is visited where i + j = r modulo their
// number: each block is in exactly one tile a round, so that threads share out the tiles of a round
// freely and yet every number is a sum in one order, that of the rounds.

#include "core/matrix_tile.h"
#include "core/workspace.h"
#include "ops/nt_xent_loss/nt_xent_loss.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace medad::MEDAD_ISA {
namespace {

// Up to this many blocks, the first pass's tiles (3/4 MB in float32) are kept for the second.
constexpr int64_t kBlocksKept = 4;

// Multiply-adds of the similarities below which one thread is done before a second has been woken.
constexpr int64_t kWorkForThreads = 1 << 21;

constexpr int64_t kBlock = 128;
constexpr int64_t kStep = kBlock + 16;  // of a tile's rows: a power of two would share cache sets
constexpr int64_t kTileElements = kBlock * kStep;

template <class T>
struct Job {
  const T* z[2];
  T* gradient;
  int64_t pairs, rows, depth, blocks, wide;
  T inverse_temperature;
  bool own_tops;    // exp((s - 1) / T) could underflow: each row gets a top of its own
  bool keep_tiles;  // of exponentials, from the first pass to the second

  T *units, *across, *panels;  // (N, D), and packed along either side
  T *largest, *root, *top, *positive, *weight, *pull, *tiles;
  double *others, *losses;
  int64_t* taken;  // tiles of each round of each pass

  MEDAD_INLINE int64_t first_row(int64_t block) const { return block * kBlock; }
  MEDAD_INLINE int64_t rows_of(int64_t block) const {
    return smaller(kBlock, rows - block * kBlock);
  }
  MEDAD_INLINE int64_t partner(int64_t row) const {
    return row < pairs ? row + pairs : row - pairs;
  }
};

struct Tile {
  int64_t i, j;  // blocks, i <= j
  int64_t first_row, first_column, rows, columns;

  MEDAD_INLINE bool diagonal() const { return i == j; }
};

// units = z / |z| by way of z / largest, which neither overflows nor underflows.
template <class T>
MEDAD_INLINE void normalise_row(const Job<T>& job, int64_t row) {
  constexpr int kWidth = kLanes<T>;
  const int64_t depth = job.depth, whole = depth / kWidth * kWidth;
  const T* z = row < job.pairs ? job.z[0] + row * depth : job.z[1] + (row - job.pairs) * depth;
  T* unit = job.units + row * depth;
  Vector<T> tops = {};
  for (int64_t d = 0; d < whole; d += kWidth) {
    const Vector<T> v = load<T>(z + d);
    tops = larger(tops, v < 0 ? -v : v);
  }
  T top = horizontal_max<T>(tops);
  for (int64_t d = whole; d < depth; ++d) {
    const T v = z[d] < 0 ? -z[d] : z[d];
    top = v > top ? v : top;
  }
  if (top == 0) top = 1;

  Vector<T> squares = {};
  for (int64_t d = 0; d < whole; d += kWidth) {
    const Vector<T> v = load<T>(z + d) / broadcast(top);
    store<T>(unit + d, v);
    squares = fma(v, v, squares);
  }
  T square = horizontal_sum<T>(squares);
  for (int64_t d = whole; d < depth; ++d) {
    unit[d] = z[d] / top;
    square += unit[d] * unit[d];
  }
  const T root = square == 0 ? T(1) : T(__builtin_sqrt(double(square)));
  for (int64_t d = 0; d < whole; d += kWidth) {
    store<T>(unit + d, load<T>(unit + d) / broadcast(root));
  }
  for (int64_t d = whole; d < depth; ++d) unit[d] /= root;
  job.largest[row] = top;
  job.root[row] = root;
}

template <class T>
void prepare_block(const Job<T>& job, int64_t block) {
  const int64_t first = job.first_row(block), rows = job.rows_of(block), depth = job.depth;
  for (int64_t row = first; row < first + rows; ++row) {
    normalise_row(job, row);
    job.top[row] = job.own_tops ? -T(__builtin_inf()) : T(1);
    job.others[row] = 0;
  }
  const T* units = job.units + first * depth;
  for (int64_t c = 0; c < rows; c += kPanel<T>) {
    pack_panel_transposed<T>(units + c * depth, depth, depth, rows - c,
                             job.across + (first + c) * depth);
  }
  if (!job.gradient) return;
  for (int64_t d = 0; d < depth; d += kPanel<T>) {
    pack_panel<T>(units + d, depth, rows, depth - d, job.panels + first * job.wide + d * rows);
  }
}

template <class T>
void finish_sums(const Job<T>& job, int64_t block) {
  const int64_t first = job.first_row(block);
  for (int64_t row = first; row < first + job.rows_of(block); ++row) {
    const double distance =
        double(job.positive[row] - job.top[row]) * double(job.inverse_temperature);
    const double others = job.others[row], sum = __builtin_exp(distance) + others;
    const double scale = double(job.inverse_temperature) / (sum * double(job.rows));
    job.losses[row] = nt_xent_row_loss(others, distance);
    job.weight[row] = T(scale);
    job.pull[row] = T(others * scale);
  }
}

// dz from du.
template <class T>
void finish_gradients(const Job<T>& job, int64_t block) {
  constexpr int kWidth = kLanes<T>;
  const int64_t depth = job.depth, whole = depth / kWidth * kWidth, first = job.first_row(block);
  for (int64_t row = first; row < first + job.rows_of(block); ++row) {
    const T* unit = job.units + row * depth;
    T* gradient = job.gradient + row * depth;
    Vector<T> sums = {};
    for (int64_t d = 0; d < whole; d += kWidth) {
      sums = fma(load<T>(unit + d), load<T>(gradient + d), sums);
    }
    T along = horizontal_sum<T>(sums);
    for (int64_t d = whole; d < depth; ++d) along += unit[d] * gradient[d];
    const Vector<T> root = broadcast(job.root[row]), largest = broadcast(job.largest[row]);
    for (int64_t d = 0; d < whole; d += kWidth) {
      const Vector<T> across = load<T>(gradient + d) - load<T>(unit + d) * broadcast(along);
      store<T>(gradient + d, across / root / largest);
    }
    for (int64_t d = whole; d < depth; ++d) {
      gradient[d] = (gradient[d] - unit[d] * along) / job.root[row] / job.largest[row];
    }
  }
}

// The similarities of a tile. A row with itself, with its positive (which is noted) and with the
// padding get -inf, whose exponential is nothing.
template <class T>
void similarities(const Job<T>& job, const Tile& at, T* tile) {
  const int64_t depth = job.depth, width = round_up(at.columns, kPanel<T>);
  const int64_t parts = (at.rows + kTileRows - 1) / kTileRows;
  for (int64_t c = 0; c < width; c += kPanel<T>) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_begin(at.rows, part, parts);
      multiply_rows<T>(part_begin(at.rows, part + 1, parts) - row,
                       job.units + (at.first_row + row) * depth, depth, 1,
                       job.across + (at.first_column + c) * depth, depth, tile + row * kStep + c,
                       kStep, false);
    }
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    if (at.diagonal()) row[r] = -T(__builtin_inf());
    const int64_t i = at.first_row + r, p = job.partner(i), c = p - at.first_column;
    if (c >= 0 && c < at.columns) {
      job.positive[i] = job.positive[p] = row[c];
      row[c] = -T(__builtin_inf());
    }
    for (int64_t d = at.columns; d < width; ++d) row[d] = -T(__builtin_inf());
  }
}

// Where tops are each row's own: the largest similarity, the positive's included.
template <class T>
void raise_tops(const Job<T>& job, const Tile& at, T* tile) {
  const auto raise = [&](int64_t row, T value) {
    if (value > job.top[row]) job.top[row] = value;
  };
  similarities(job, at, tile);
  for (int64_t r = 0; r < at.rows; ++r) {
    const int64_t i = at.first_row + r, c = job.partner(i) - at.first_column;
    if (c >= 0 && c < at.columns) {
      raise(i, job.positive[i]);
      raise(at.first_column + c, job.positive[i]);
    }
    for (int64_t d = 0; d < at.columns; ++d) {
      raise(i, tile[r * kStep + d]);
      if (!at.diagonal()) raise(at.first_column + d, tile[r * kStep + d]);
    }
  }
}

// Adds a tile's exponentials to the sums of its rows and, off the diagonal, of its columns.
template <class T, bool kOwnTops>
void add_exponentials(const Job<T>& job, const Tile& at, T* tile) {
  constexpr int kWidth = kLanes<T>;
  const int64_t width = round_up(at.columns, kPanel<T>);
  const Vector<T> scale = broadcast(job.inverse_temperature);
  similarities(job, at, tile);
  T columns[kBlock] = {}, tops[kBlock] = {};
  for (int64_t c = 0; kOwnTops && c < at.columns; ++c) tops[c] = job.top[at.first_column + c];
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    const Vector<T> top = broadcast(kOwnTops ? job.top[at.first_row + r] : T(1));
    Vector<T> sums = {};
    for (int64_t c = 0; c < width; c += kWidth) {
      const Vector<T> s = load<T>(row + c);
      const Vector<T> e = exp_of_negative((s - top) * scale);
      sums += e;
      if (kOwnTops) {
        const Vector<T> other = exp_of_negative((s - load<T>(tops + c)) * scale);
        store<T>(columns + c, load<T>(columns + c) + other);
      } else {
        store<T>(columns + c, load<T>(columns + c) + e);
        store<T>(row + c, e);
      }
    }
    job.others[at.first_row + r] += double(horizontal_sum<T>(sums));
  }
  if (at.diagonal()) return;
  for (int64_t c = 0; c < at.columns; ++c) job.others[at.first_column + c] += double(columns[c]);
}

// The tile's part of E + E^T, in place of its exponentials.
template <class T, bool kOwnTops>
void scale_exponentials(const Job<T>& job, const Tile& at, T* tile) {
  constexpr int kWidth = kLanes<T>;
  const int64_t width = round_up(at.columns, kPanel<T>);
  const Vector<T> scale = broadcast(job.inverse_temperature);
  if (!job.keep_tiles) similarities(job, at, tile);
  T weights[kBlock] = {}, tops[kBlock] = {};
  for (int64_t c = 0; c < at.columns; ++c) {
    weights[c] = job.weight[at.first_column + c];
    tops[c] = job.top[at.first_column + c];
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    T* row = tile + r * kStep;
    const int64_t i = at.first_row + r, partner = job.partner(i) - at.first_column;
    const Vector<T> weight = broadcast(job.weight[i]), top = broadcast(job.top[i]);
    for (int64_t c = 0; c < width; c += kWidth) {
      const Vector<T> value = load<T>(row + c), other = load<T>(weights + c);
      if (kOwnTops) {
        const Vector<T> mine = exp_of_negative((value - top) * scale) * weight;
        store<T>(row + c, mine + exp_of_negative((value - load<T>(tops + c)) * scale) * other);
      } else {
        const Vector<T> e = job.keep_tiles ? value : exp_of_negative((value - top) * scale);
        store<T>(row + c, e * (weight + other));
      }
    }
    if (partner >= 0 && partner < at.columns) {
      row[partner] = -(job.pull[i] + job.pull[job.partner(i)]);
    }
  }
}

// Adds the tile's products to the gradients of its rows and, off the diagonal, of its columns.
template <class T>
void add_gradients(const Job<T>& job, const Tile& at, const T* tile, bool first) {
  const int64_t depth = job.depth;
  const auto panels = [&](int64_t row) { return job.panels + row * job.wide; };
  const auto add = [&](int64_t to, int64_t count, const T* factor, int64_t row_step,
                       int64_t depth_step, const T* wide, int64_t terms) {
    const int64_t parts = (count + kTileRows - 1) / kTileRows;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_begin(count, part, parts);
      multiply_wide<T>(part_begin(count, part + 1, parts) - row, factor + row * row_step, row_step,
                       depth_step, wide, terms, job.gradient + (to + row) * depth, depth, !first);
    }
  };
  add(at.first_row, at.rows, tile, kStep, 1, panels(at.first_column), at.columns);
  if (at.diagonal()) return;
  add(at.first_column, at.columns, tile, 1, kStep, panels(at.first_row), at.rows);
}

// visit(tile, memory, first round) for all tiles, whichever thread comes first.
template <class T, class Visit>
MEDAD_INLINE void for_tiles(const Job<T>& job, const Team& team, int64_t* taken,
                            const Visit& visit) {
  for (int64_t round = 0; round < job.blocks; ++round) {
    int64_t number = 0, mine = __atomic_fetch_add(taken + round, 1, __ATOMIC_RELAXED);
    for (int64_t i = 0; i < job.blocks; ++i) {
      const int64_t j = (round - i + job.blocks) % job.blocks;
      if (i > j || number++ != mine) continue;
      const Tile at{i, j, job.first_row(i), job.first_row(j), job.rows_of(i), job.rows_of(j)};
      const int64_t place = job.keep_tiles ? i * job.blocks + j : team.index;
      visit(at, job.tiles + place * kTileElements, round == 0);
      mine = __atomic_fetch_add(taken + round, 1, __ATOMIC_RELAXED);
    }
    team.barrier();
  }
}

template <class T>
void run_team(const Job<T>& job, T* loss, const Team& team) {
  const auto for_blocks = [&](void (*work)(const Job<T>&, int64_t)) {
    for (int64_t b = team.index; b < job.blocks; b += team.size) work(job, b);
    team.barrier();
  };
  for_blocks(prepare_block<T>);
  if (job.own_tops) {
    for_tiles(job, team, job.taken,
              [&](const Tile& at, T* tile, bool) { raise_tops(job, at, tile); });
  }
  for_tiles(job, team, job.taken + job.blocks, [&](const Tile& at, T* tile, bool) {
    job.own_tops ? add_exponentials<T, true>(job, at, tile)
                 : add_exponentials<T, false>(job, at, tile);
  });
  for_blocks(finish_sums<T>);
  if (team.index == 0) {
    double sum = 0;
    for (int64_t row = 0; row < job.rows; ++row) sum += job.losses[row];
    *loss = T(sum / double(job.rows));
  }
  if (!job.gradient) return;
  for_tiles(job, team, job.taken + 2 * job.blocks, [&](const Tile& at, T* tile, bool first) {
    job.own_tops ? scale_exponentials<T, true>(job, at, tile)
                 : scale_exponentials<T, false>(job, at, tile);
    add_gradients(job, at, tile, first);
  });
  for_blocks(finish_gradients<T>);
}

template <class T>
void run(const NtXentJob& call) {
  T* const loss = static_cast<T*>(call.loss);
  if (call.pairs == 0) {
    *loss = T(__builtin_nan(""));
    return;
  }
  Job<T> job = {};
  job.z[0] = static_cast<const T*>(call.z1);
  job.z[1] = static_cast<const T*>(call.z2);
  job.gradient = static_cast<T*>(call.gradient);
  job.pairs = call.pairs;
  job.rows = 2 * call.pairs;
  job.depth = call.depth;
  job.blocks = (job.rows + kBlock - 1) / kBlock;
  job.wide = round_up(job.depth, kPanel<T>);
  job.inverse_temperature = T(1 / call.temperature);
  job.own_tops = 2 / call.temperature > (sizeof(T) == 8 ? 600.0 : 60.0);
  job.keep_tiles = job.gradient && !job.own_tops && job.blocks <= kBlocksKept;

  int threads = job.rows * job.rows * job.depth < kWorkForThreads ? 1 : call.threads;
  threads = int(smaller(threads, job.blocks / 2 + 1));
  const int64_t padded = job.blocks * kBlock;
  const int64_t tiles = job.keep_tiles ? job.blocks * job.blocks : threads;
  Workspace<T> numbers(padded * (2 * job.depth + (job.gradient ? job.wide : 0) + 6) +
                       tiles * kTileElements);
  Workspace<double> sums(2 * padded);
  Workspace<int64_t> taken(3 * job.blocks);
  Parts parts{reinterpret_cast<char*>(numbers.data)};
  job.tiles = parts.take<T>(tiles * kTileElements);
  job.units = parts.take<T>(padded * job.depth);
  job.across = parts.take<T>(padded * job.depth);
  job.panels = parts.take<T>(job.gradient ? padded * job.wide : 0);
  job.largest = parts.take<T>(padded);
  job.root = parts.take<T>(padded);
  job.top = parts.take<T>(padded);
  job.positive = parts.take<T>(padded);
  job.weight = parts.take<T>(padded);
  job.pull = parts.take<T>(padded);
  job.others = sums.data;
  job.losses = sums.data + padded;
  job.taken = taken.data;
  for (int64_t i = 0; i < 3 * job.blocks; ++i) job.taken[i] = 0;

  // No parallel region for one thread: a forked child may not open one.
  if (threads == 1) {
    run_team(job, loss, {0, 1});
    return;
  }
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    run_team(job, loss, Team{omp_get_thread_num(), omp_get_num_threads()});
#else
    run_team(job, loss, Team{0, 1});
#endif
  }
}

}  // namespace

void nt_xent_loss_cpu(const NtXentJob& job) {
  job.dtype == DType::kFloat64 ? run<double>(job) : run<float>(job);
}

}  // namespace medad::MEDAD_ISA
