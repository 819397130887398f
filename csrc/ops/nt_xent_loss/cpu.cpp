// NT-Xent on the CPU: bound by the multiplications, 4 N N D instead of the 6 of plain matrices.
//
// The similarities are symmetric: a tile of 128 x 128 of them, in the second-level cache, serves
// its rows and its columns, and only tiles on and above the diagonal are visited. Sums are formed
// in a first pass; a second one forms the tiles again, scales them and multiplies them with the
// rows of both sides. In round r the tile of blocks i and j is visited where i + j = r modulo their
// number: each block is in exactly one tile a round, so that threads share out the tiles of a round
// freely and yet every number is a sum in one order, that of the rounds.

#include "ops/nt_xent_loss/cpu_tiles.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace medad::MEDAD_ISA {
namespace {

// Up to this many blocks, the first pass's tiles (3/4 MB in float32) are kept for the second.
constexpr int64_t kBlocksKept = 4;

// Multiply-adds of the similarities below which one thread is done before a second has been woken.
constexpr int64_t kWorkForThreads = 1 << 21;

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
void run(const NtXentCpu<T>& call, int threads) {
  if (call.pairs == 0) {
    *call.loss = T(__builtin_nan(""));
    return;
  }
  Job<T> job = {};
  job.z[0] = call.z1;
  job.z[1] = call.z2;
  job.gradient = call.gradient;
  job.pairs = call.pairs;
  job.rows = 2 * call.pairs;
  job.depth = call.depth;
  job.blocks = (job.rows + kBlock - 1) / kBlock;
  job.wide = round_up(job.depth, kPanel<T>);
  job.inverse_temperature = T(1 / call.temperature);
  job.own_tops = 2 / call.temperature > (sizeof(T) == 8 ? 600.0 : 60.0);
  job.keep_tiles = job.gradient && !job.own_tops && job.blocks <= kBlocksKept;

  if (job.rows * job.rows * job.depth < kWorkForThreads) threads = 1;
  threads = int(smaller(bigger(threads, 1), job.blocks / 2 + 1));
  const int64_t padded = job.blocks * kBlock;
  const int64_t tiles = job.keep_tiles ? job.blocks * job.blocks : threads;
  Workspace<T> numbers(padded * (2 * job.depth + (job.gradient ? job.wide : 0) + 6) +
                       tiles * kTileElements);
  Workspace<double> sums(2 * padded);
  Workspace<int64_t> taken(3 * job.blocks);
  T* next = numbers.data;
  const auto take = [&](int64_t count) {
    T* begin = next;
    next += count;
    return begin;
  };
  job.tiles = take(tiles * kTileElements);
  job.units = take(padded * job.depth);
  job.across = take(padded * job.depth);
  job.panels = take(job.gradient ? padded * job.wide : 0);
  job.largest = take(padded);
  job.root = take(padded);
  job.top = take(padded);
  job.positive = take(padded);
  job.weight = take(padded);
  job.pull = take(padded);
  job.others = sums.data;
  job.losses = sums.data + padded;
  job.taken = taken.data;
  for (int64_t i = 0; i < 3 * job.blocks; ++i) job.taken[i] = 0;

  // No parallel region for one thread: a forked child may not open one.
  if (threads == 1) {
    run_team(job, call.loss, {0, 1});
    return;
  }
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    run_team(job, call.loss, Team{omp_get_thread_num(), omp_get_num_threads()});
#else
    run_team(job, call.loss, Team{0, 1});
#endif
  }
}

}  // namespace

void nt_xent_loss_float(const NtXentCpu<float>& job, int threads) { run<float>(job, threads); }

void nt_xent_loss_double(const NtXentCpu<double>& job, int threads) { run<double>(job, threads); }

}  // namespace medad::MEDAD_ISA
