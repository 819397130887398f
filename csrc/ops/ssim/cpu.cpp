// SSIM and its gradient on the CPU, in one pass over the images.
//
// Bound by arithmetic: 11 operations a pixel (6 products, 5 sums) for each of 4 blurs along both
// axes, and of 3 or 4 more for the gradient. A task walks down a strip of columns four rows at a
// time: blur along the columns, blur along the rows, value, derivatives, and at once their own two
// blurs, the adjoint of the first, which need no more than the last rows: nothing but the images,
// the gradient and some 100 KB of rings is ever touched. Each number is formed by one thread in one
// order, and the sum of the map goes over sums of rows: any number of threads, any cut into tasks
// and any batch around an image give the same bits.

#include <omp.h>

#include "ops/ssim/cpu_strip.h"
#include "ops/ssim/ssim.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kTasks = 16;     // aimed at: planes are cut into runs of rows if there are fewer
constexpr int64_t kTaskRows = 64;  // but not below this, since a run repeats 2 radius rows
constexpr int64_t kSerialWork = 1 << 13;  // pixels below which waking threads does not pay

// What a task finds of each row of the map.
struct RowSum {
  double sum;
  bool left_range;  // the moments of some place did not fit in float32
};

template <class C, int kRadius>
class Task {
  using V = Vector<C>;
  static constexpr bool kWide = sizeof(C) == 8;
  static constexpr int kWidth = kLanes<C>;

 public:
  Task(const SsimJob& job, const Strip& strip, int64_t plane, const Fields<C>& fields, RowSum* sums)
      : job_(job),
        strip_(strip),
        plane_(plane),
        f_(fields),
        sums_(sums),
        vectors_((strip.count + kWidth - 1) / kWidth),
        steps_(round_up(vectors_, kStep)),
        window_{job.window, job.radius},
        to_x_(job.grad_x.data != nullptr),
        to_y_(job.grad_y.data != nullptr),
        spread_fields_(to_x_ && to_y_   ? 4
                       : to_x_ || to_y_ ? 3
                                        : 0) {
    with_floating_type(
        job.dtype, [&](auto zero) { centre_ = C(centre_of<decltype(zero)>(job, strip, plane)); });
    mark_places();
  }

  // Rows own_first .. own_last of the padded image: the map's rows that lie there, and the
  // gradient.
  void run(int64_t own_first, int64_t own_last) {
    own_first_ = own_first;
    own_last_ = own_last;
    const int64_t reach = 2 * job_.radius;
    const bool gradient = spread_fields_ > 0;
    const int64_t begin = gradient ? bigger(0, own_first - reach) : own_first;
    const int64_t end = gradient ? own_last : smaller(own_last, job_.map_rows());
    clear();
    int64_t read = begin;
    for (int64_t row = begin; row < end; row += kStep) {
      const int64_t last_map_row = smaller(smaller(row + kStep, end), job_.map_rows());
      if (row < last_map_row) {
        for (; read < smaller(row + f_.ring_rows, job_.rows()); ++read) read_input(read);
        blur_columns(row);
        for (int64_t r = row; r < last_map_row; ++r) place_row(r, int(r - row));
      }
      if (!gradient) continue;
      for (int64_t r = bigger(row, last_map_row); r < row + kStep; ++r) forget(r);
      if (row + kStep > own_first) write_gradients(row);
    }
  }

 private:
  void clear() {
    for (int field = 0; field < 2; ++field) {
      for (int64_t i = 0; i < f_.ring_rows * f_.padded * kWidth; ++i) f_.input[field][i] = 0;
      for (int64_t i = 0; i < (f_.padded + 1) * kWidth; ++i) f_.natural[field][i] = 0;
    }
    if (spread_fields_ == 0) return;
    for (int64_t i = 0; i < 4 * f_.ring_rows * f_.padded * kWidth; ++i) f_.spread[i] = 0;
  }

  void mark_places() {
    for (int64_t j = 0; j < f_.padded; ++j) {
      for (int l = 0; l < kWidth; ++l) {
        const int64_t c = l * vectors_ + j, column = strip_.first + c;
        const bool inside = j < vectors_ && c < strip_.count - 2 * job_.radius;
        const bool own = column >= strip_.own_first && column < strip_.own_last;
        f_.inside[j * kWidth + l] = C(inside);
        f_.own[j * kWidth + l] = C(inside && own);
      }
    }
  }

  void read_input(int64_t row) {
    with_floating_type(job_.dtype, [&](auto zero) {
      read_row<decltype(zero)>(job_, strip_, plane_, row, centre_, f_.natural[0], f_.natural[1]);
    });
    for (int field = 0; field < 2; ++field) {
      to_lanes(f_.natural[field], vectors_, f_.input_row(field, row));
    }
  }

  // The four moments of map rows row .. row + kStep, blurred along the columns.
  void blur_columns(int64_t row) {
    f_.find_rows(row);
    for (int field = 0; field < 2; ++field) {
      const C* ring = f_.input[field];
      const int64_t row_step = 4 * f_.with_halo * kWidth;
      C* mean = f_.blurred_row(0, field);
      C* square = f_.blurred_row(0, 2 + field);
      for (int64_t j = 0; j < vectors_ * kWidth; j += kWidth) {
        const auto at = [&](int64_t i) { return load<C>(ring + f_.offsets[i] + j); };
        const auto squared = [&](int64_t i) {
          const V value = load<C>(ring + f_.offsets[i] + j);
          return value * value;
        };
        weigh_step<kRadius>(window_, at,
                            [&](int o, V sum) { store<C>(mean + o * row_step + j, sum); });
        weigh_step<kRadius>(window_, squared,
                            [&](int o, V sum) { store<C>(square + o * row_step + j, sum); });
      }
    }
    for (int r = 0; r < kStep; ++r) {
      for (int field = 0; field < 4; ++field) {
        C* values = f_.blurred_row(r, field);
        for (int64_t j = vectors_; j < steps_ + 2 * job_.radius; ++j) {
          store<C>(values + j * kWidth, turn<C>(load<C>(values + (j - vectors_) * kWidth), 1));
        }
      }
    }
  }

  // Values of a row of the map, and the derivatives blurred along it.
  void place_row(int64_t row, int r) {
    const bool owned = row >= own_first_ && row < own_last_;
    if (job_.upstream != nullptr) read_upstream(row);
    const V centre = broadcast(centre_), c1 = broadcast(C(job_.c1)), c2 = broadcast(C(job_.c2));
    const V weight = broadcast(C(job_.weight));
    const int64_t reach = 2 * job_.radius * kWidth;
    V total{}, range{};
    for (int64_t j = 0; j < steps_ * kWidth; j += kStep * kWidth) {
      V moment[4][kStep];
      for (int field = 0; field < 4; ++field) {
        const C* values = f_.blurred_row(r, field) + j;
        weigh_step<kRadius>(
            window_, [&](int64_t i) { return load<C>(values + i * kWidth); },
            [&](int o, V sum) { moment[field][o] = sum; });
      }
      for (int o = 0; o < kStep; ++o) {
        const int64_t at = j + o * kWidth;
        const auto inside = load<C>(f_.inside + at) != V{};
        const auto own = load<C>(f_.own + at) != V{};
        const SsimMoments<V> m{moment[0][o], moment[1][o], moment[2][o], moment[3][o]};
        const SsimValue<V> v = ssim_value<kWide>(m, centre, c1, c2);
        total += own ? v.value : V{};
        range += inside ? v.product : V{};
        if (job_.map != nullptr) store<C>(f_.line[0] + at, v.value);
        if (spread_fields_ == 0) continue;
        const V up = job_.upstream != nullptr ? load<C>(f_.upstream + at) : weight;
        SsimPartials<V> p = ssim_partials(m, v, centre);
        store_partials(at + reach, p, inside, up);
      }
    }
    if (owned) {
      RowSum& sum = sums_[row];
      sum.sum = double(horizontal_sum<C>(total));
      const V nothing = range - range;
      sum.left_range = !kWide && horizontal_sum<C>(nothing) != 0;
      if (job_.map != nullptr) write_map(row);
    }
    if (spread_fields_ > 0) spread(row);
  }

  template <class Mask>
  MEDAD_INLINE void store_partials(int64_t at, const SsimPartials<V>& p, Mask inside, V up) {
    const auto put = [&](int field, V value) {
      store<C>(f_.partials_row(field) + at, inside ? value * up : V{});
    };
    put(0, spread_fields_ == 4 ? p.sum : to_x_ ? p.sum + p.difference : p.sum - p.difference);
    put(1, p.sum_square);
    put(2, p.difference_square);
    if (spread_fields_ == 4) put(3, p.difference);
  }

  // The adjoint along the row: column c takes what the map has at c - 2 radius .. c.
  void spread(int64_t row) {
    const int64_t halo = 2 * job_.radius;
    for (int field = 0; field < spread_fields_; ++field) {
      C* values = f_.partials_row(field) + halo * kWidth;
      for (int64_t j = -1; j >= -halo; --j) {
        store<C>(values + j * kWidth, turn<C>(load<C>(values + (j + vectors_) * kWidth), -1));
      }
      C* to = f_.spread_ring(field) + f_.offset(row);
      values -= halo * kWidth;
      for (int64_t j = 0; j < steps_ * kWidth; j += kStep * kWidth) {
        weigh_step<kRadius>(
            window_, [&](int64_t i) { return load<C>(values + j + i * kWidth); },
            [&](int o, V sum) { store<C>(to + j + o * kWidth, sum); });
      }
    }
  }

  void forget(int64_t row) {
    for (int field = 0; field < spread_fields_; ++field) {
      C* values = f_.spread_ring(field) + f_.offset(row);
      for (int64_t i = 0; i < f_.padded * kWidth; ++i) values[i] = 0;
    }
  }

  // The adjoint along the columns, and so the gradient at rows row .. row + kStep.
  void write_gradients(int64_t row) {
    const auto blur = [&](int field, int64_t j, V(&result)[kStep]) {
      const C* ring = f_.spread_ring(field);
      weigh_step<kRadius>(
          window_, [&](int64_t i) { return load<C>(ring + f_.offsets[i] + j); },
          [&](int o, V sum) { result[o] = sum; });
    };
    f_.find_rows(row - 2 * job_.radius);
    const bool both = spread_fields_ == 4;
    for (int64_t j = 0; j < vectors_ * kWidth; j += kWidth) {
      V plain[kStep], by_sum[kStep], by_difference[kStep], other[kStep] = {};
      blur(0, j, plain);
      blur(1, j, by_sum);
      blur(2, j, by_difference);
      if (both) blur(3, j, other);
      for (int o = 0; o < kStep; ++o) {
        const V sum = fma(load<C>(f_.input_row(0, row + o) + j), by_sum[o], plain[o]);
        const V difference = load<C>(f_.input_row(1, row + o) + j) * by_difference[o];
        if (both) {
          store<C>(f_.line[o] + j, sum + (difference + other[o]));
          store<C>(f_.line[kStep + o] + j, sum - (difference + other[o]));
        } else {
          store<C>(f_.line[o] + j, to_x_ ? sum + difference : sum - difference);
        }
      }
    }
    for (int o = 0; o < kStep; ++o) {
      const int64_t r = row + o;
      if (r < bigger(own_first_, job_.padding)) continue;
      if (r >= smaller(own_last_, job_.padding + job_.height)) continue;
      write(to_x_ ? job_.grad_x : job_.grad_y, r, f_.line[o]);
      if (both) write(job_.grad_y, r, f_.line[kStep + o]);
    }
  }

  void write(const SsimImages& to, int64_t row, const C* line) {
    C* natural = f_.natural[0];
    from_lanes(line, vectors_, natural);
    with_floating_type(job_.dtype, [&](auto zero) {
      write_gradient<decltype(zero)>(job_, to, strip_, plane_, row, natural);
    });
    for (int64_t i = strip_.count; i < (f_.padded + 1) * kWidth; ++i) natural[i] = 0;
  }

  // The map and what comes in have the type of the arithmetic, unless that is wider.
  template <class Visit>
  void with_map_type(Visit visit) {
    if (kWide && job_.dtype == DType::kFloat64) {
      visit(double());
    } else {
      visit(float());
    }
  }

  int64_t map_place(int64_t row) const {
    return (plane_ * job_.map_rows() + row) * job_.map_columns() + strip_.first;
  }

  void write_map(int64_t row) {
    from_lanes(f_.line[0], vectors_, f_.natural[0]);
    with_map_type([&](auto zero) {
      auto* out = static_cast<decltype(zero)*>(job_.map) + map_place(row);
      const int64_t last = smaller(strip_.own_last, job_.map_columns()) - strip_.first;
      for (int64_t c = strip_.own_first - strip_.first; c < last; ++c) {
        out[c] = decltype(zero)(f_.natural[0][c]);
      }
    });
    for (int64_t i = strip_.count; i < (f_.padded + 1) * kWidth; ++i) f_.natural[0][i] = 0;
  }

  void read_upstream(int64_t row) {
    with_map_type([&](auto zero) {
      const auto* from = static_cast<const decltype(zero)*>(job_.upstream) + map_place(row);
      const int64_t count = strip_.count - 2 * job_.radius;
      for (int64_t c = 0; c < count; ++c) f_.natural[1][c] = C(from[c]);
    });
    to_lanes(f_.natural[1], vectors_, f_.upstream);
  }

  const SsimJob& job_;
  const Strip strip_;
  const int64_t plane_;
  const Fields<C>& f_;
  RowSum* sums_;
  const int64_t vectors_, steps_;  // registers of a row, and rounded up to kStep
  const Window<C> window_;
  const bool to_x_, to_y_;
  const int spread_fields_;
  int64_t own_first_ = 0, own_last_ = 0;
  C centre_ = 0;
};

// All tasks, computed in C.
template <class C>
class Run {
 public:
  Run(const SsimJob& job, RowSum* sums)
      : job_(job),
        strips_(job),
        sums_(sums),
        planes_(job.batch * job.channels),
        runs_(bigger(1, smaller(kTasks / (planes_ * strips_.number), job.rows() / kTaskRows))),
        thread_bytes_(
            Fields<C>().plan((strips_.widest() + kLanes<C> - 1) / kLanes<C>, job.radius, nullptr)),
        threads_(planes_ * job.rows() * job.columns() < kSerialWork
                     ? 1
                     : int(smaller(job.threads, tasks()))),
        memory_(thread_bytes_ * threads_) {}

  // All strips of all planes, or those that are marked.
  void operator()(const char* marked) {
    if (threads_ == 1) {
      for (int64_t task = 0; task < tasks(); ++task) run(task, 0, marked);
      return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (int64_t task = 0; task < tasks(); ++task) run(task, omp_get_thread_num(), marked);
  }

 private:
  int64_t tasks() const { return planes_ * strips_.number * runs_; }

  void run(int64_t task, int thread, const char* marked) {
    const int64_t part = task % runs_, place = task / runs_;
    if (marked != nullptr && !marked[place]) return;
    const Strip strip = strips_[place % strips_.number];
    const int64_t plane = place / strips_.number;
    Fields<C> fields;
    fields.plan((strip.count + kLanes<C> - 1) / kLanes<C>, job_.radius,
                memory_.data + thread * thread_bytes_);
    const int64_t first = job_.rows() * part / runs_, last = job_.rows() * (part + 1) / runs_;
    RowSum* sums = sums_ + place * job_.map_rows();
    if (job_.radius == 5) {
      Task<C, 5>(job_, strip, plane, fields, sums).run(first, last);
    } else {
      Task<C, 0>(job_, strip, plane, fields, sums).run(first, last);
    }
  }

  const SsimJob& job_;
  const Strips strips_;
  RowSum* sums_;
  const int64_t planes_, runs_, thread_bytes_;
  const int threads_;
  const Workspace<char> memory_;
};

// The sums of rows, and a mark for each strip of each plane.
class Sums {
 public:
  explicit Sums(const SsimJob& job)
      : strips_(job.batch * job.channels * Strips(job).number),
        rows_(job.map_rows()),
        sums_(strips_ * rows_),
        marks_(strips_) {}

  RowSum* sums() const { return sums_.data; }
  char* marks() const { return marks_.data; }

  bool mark_those_that_left_range() const {
    bool any = false;
    for (int64_t strip = 0; strip < strips_; ++strip) {
      bool left = false;
      for (int64_t i = strip * rows_; i < (strip + 1) * rows_; ++i) left |= sums()[i].left_range;
      marks()[strip] = left;
      any |= left;
    }
    return any;
  }

  double total() const {
    double total = 0;
    for (int64_t strip = 0; strip < strips_; ++strip) {
      double of_strip = 0;
      for (int64_t i = strip * rows_; i < (strip + 1) * rows_; ++i) of_strip += sums()[i].sum;
      total += of_strip;
    }
    return total;
  }

 private:
  int64_t strips_, rows_;
  Workspace<RowSum> sums_;
  Workspace<char> marks_;
};

}  // namespace

void ssim_cpu(const SsimJob& job) {
  double total = 0;
  if (job.batch * job.channels > 0) {
    const Sums sums(job);
    if (job.wide || job.dtype == DType::kFloat64) {
      Run<double>(job, sums.sums())(nullptr);
    } else {
      Run<float>(job, sums.sums())(nullptr);
      if (sums.mark_those_that_left_range()) Run<double>(job, sums.sums())(sums.marks());
    }
    total = sums.total();
  }
  if (job.total == nullptr) return;
  if (job.dtype == DType::kFloat64) {
    *static_cast<double*>(job.total) = total * job.scale;
  } else {
    *static_cast<float*>(job.total) = float(total * job.scale);
  }
}

}  // namespace medad::MEDAD_ISA
