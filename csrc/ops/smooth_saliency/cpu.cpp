// Smoothed saliency on the CPU: row by row through all steps, in L1.
//
// Bound by the median, some 120 minima and maxima a vector of pixels, all in registers; eager torch
// copies each pixel 25 times and selects among them one by one. Rings of rows hold what the steps
// need of each other: five rows of a, seven of the Gaussian along the rows. Each pixel of each step
// is computed by itself in one order: any number of threads, and any batch around an image, gives
// the same bits.

#include <omp.h>

#include "core/workspace.h"
#include "ops/smooth_saliency/smooth_saliency.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kManyImages = 16;         // then a task is a whole image
constexpr int64_t kBandRows = 32;           // and otherwise this many rows
constexpr int64_t kSerialPixels = 1 << 11;  // below: not worth waking threads
constexpr int64_t kMargin = 16;  // elements before a row's first pixel, for its neighbours

struct VectorOrder {
#ifdef MEDAD_PACKED
  static MEDAD_INLINE FloatVector smaller(FloatVector a, FloatVector b) {
    return MEDAD_PACKED(min, ps, a, b);
  }
  static MEDAD_INLINE FloatVector larger(FloatVector a, FloatVector b) {
    return MEDAD_PACKED(max, ps, a, b);
  }
  static MEDAD_INLINE DoubleVector smaller(DoubleVector a, DoubleVector b) {
    return MEDAD_PACKED(min, pd, a, b);
  }
  static MEDAD_INLINE DoubleVector larger(DoubleVector a, DoubleVector b) {
    return MEDAD_PACKED(max, pd, a, b);
  }
#else
  template <class V>
  static MEDAD_INLINE V smaller(V a, V b) {
    return b < a ? b : a;
  }
  template <class V>
  static MEDAD_INLINE V larger(V a, V b) {
    return b > a ? b : a;
  }
#endif
};

constexpr int64_t kRows = 2 * kMedianSide + 1 + kGaussianSide + 1;

// Elements from row to row of the scratch: the last vector of a row overruns it, and so do that
// vector's neighbours.
template <class R>
int64_t step_of(int64_t width) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(R));
  return (width + 2 * kMargin + kLanes<R> + kLine - 1) / kLine * kLine;
}

// One task: some rows of one image.
template <class T>
class Band {
  using R = real_of<T>;
  using V = Vector<R>;
  using Integers = typename VectorOf<R>::integers;
  using Order = VectorOrder;
  static constexpr int kWidth = kLanes<R>;

 public:
  Band(const SaliencyJob& job, int64_t image, R* scratch)
      : job_(job), image_(image), step_(step_of<R>(job.width)) {
    // A row's first pixel has a margin before it.
    a_ = scratch + kMargin;
    sorted_ = a_ + kMedianSide * step_;
    median_ = sorted_ + kMedianSide * step_;
    smooth_ = median_ + step_;
    zeros_ = smooth_ + kGaussianSide * step_;
  }

  void run(int64_t first, int64_t last) {
    const int64_t height = job_.height;
    const int64_t from = first > kGaussianReach ? first - kGaussianReach : 0;
    const int64_t to = last + kGaussianReach < height ? last + kGaussianReach : height;
    int64_t next = from > kMedianReach ? from - kMedianReach : 0;
    int64_t done = first;
    for (int64_t y = from; y < to; ++y) {
      for (; next <= y + kMedianReach && next < height; ++next) make_a(next);
      make_median(y);
      smooth_along(y);
      if (done + kGaussianReach == y) write_out(done++);
    }
    while (done < last) write_out(done++);
  }

 private:
  R* a_row(int64_t y) const { return a_ + y % kMedianSide * step_; }

  template <bool kWhole>
  MEDAD_INLINE V masked_magnitude(const T* gradient, const T* image, int64_t left) {
    V largest{};
    for (int64_t c = 0; c < job_.channels; ++c) {
      const V g = read<kWhole>(gradient + c * job_.gradient.channel_stride, left);
      const V x = read<kWhole>(image + c * job_.image.channel_stride, left);
      constexpr auto kNoSign = sizeof(R) == 4 ? INT32_MAX : INT64_MAX;
      const V magnitude = V(Integers(g) & Integers(kNoSign - Integers{}));
      const V masked = magnitude * (x != R(0) ? broadcast(R(1)) : V{});
      largest = ((masked > largest) | (masked != masked)) ? masked : largest;
    }
    return largest;
  }

  void make_a(int64_t y) {
    const T* gradient = static_cast<const T*>(job_.gradient.data) +
                        image_ * job_.gradient.batch_stride + y * job_.gradient.row_stride;
    const T* image = static_cast<const T*>(job_.image.data) + image_ * job_.image.batch_stride +
                     y * job_.image.row_stride;
    R* to = a_row(y);
    Integers nan{};
    int64_t x = 0;
    for (; x + kWidth <= job_.width; x += kWidth) {
      const V value = masked_magnitude<true>(gradient + x, image + x, kWidth);
      nan |= value != value;
      store<R>(to + x, value);
    }
    if (x < job_.width) {
      const V value = masked_magnitude<false>(gradient + x, image + x, job_.width - x);
      nan |= value != value;
      store<R>(to + x, value);
    }
    for (int d = 1; d <= kMedianReach; ++d) {
      to[-d] = to[reflected(-d, job_.width)];
      to[job_.width - 1 + d] = to[reflected(job_.width - 1 + d, job_.width)];
    }
    bool any = false;
    for (int i = 0; i < kWidth; ++i) any = any || nan[i] != 0;
    has_nan_[y % kMedianSide] = any;
  }

  void make_median(int64_t y) {
    const R* a[kMedianSide];
    bool nan = false;
    for (int i = 0; i < kMedianSide; ++i) {
      const int64_t row = reflected(y + i - kMedianReach, job_.height);
      a[i] = a_row(row);
      nan = nan || has_nan_[row % kMedianSide];
    }
    for (int64_t x = -kMedianReach; x < job_.width + kMedianReach; x += kWidth) {
      V column[kMedianSide];
#pragma GCC unroll 5
      for (int i = 0; i < kMedianSide; ++i) column[i] = load<R>(a[i] + x);
      sort_five<Order>(column);
#pragma GCC unroll 5
      for (int i = 0; i < kMedianSide; ++i) store<R>(sorted_ + i * step_ + x, column[i]);
    }
    for (int64_t x = 0; x < job_.width; x += kWidth) {
      const R* from = sorted_ + x - kMedianReach;
      store<R>(median_ + x, median_of_columns<Order, V>(
                                [&](int rank, int column) __attribute__((always_inline)) {
                                  return load<R>(from + rank * step_ + column);
                                }));
    }
    if (nan) poison(a);
    // Nothing lies beyond the border, whatever the last vector left there.
    for (int d = 1; d <= kGaussianReach; ++d) median_[-d] = median_[job_.width - 1 + d] = 0;
  }

  // Minima and maxima have lost the NaN of windows that hold one.
  __attribute__((noinline)) void poison(const R* const* a) {
    for (int64_t x = 0; x < job_.width; x += kWidth) {
      Integers nan{};
      for (int i = 0; i < kMedianSide; ++i) {
        for (int d = -kMedianReach; d <= kMedianReach; ++d) {
          const V value = load<R>(a[i] + x + d);
          nan |= value != value;
        }
      }
      store<R>(median_ + x, nan ? broadcast(R(__builtin_nan(""))) : load<R>(median_ + x));
    }
  }

  void smooth_along(int64_t y) {
    R* to = smooth_ + y % kGaussianSide * step_;
    for (int64_t x = 0; x < job_.width; x += kWidth) {
      V sum{};
#pragma GCC unroll 7
      for (int k = -kGaussianReach; k <= kGaussianReach; ++k) {
        sum = fma(broadcast(R(gaussian_tap(k))), load<R>(median_ + x + k), sum);
      }
      store<R>(to + x, sum);
    }
  }

  void write_out(int64_t y) {
    const R* row[kGaussianSide];
    for (int k = 0; k < kGaussianSide; ++k) {
      const int64_t at = y + k - kGaussianReach;
      row[k] = at >= 0 && at < job_.height ? smooth_ + at % kGaussianSide * step_ : zeros_;
    }
    R* to = static_cast<R*>(job_.out) + (image_ * job_.height + y) * job_.width;
    for (int64_t x = 0; x < job_.width; x += kWidth) {
      V sum{};
#pragma GCC unroll 7
      for (int k = 0; k < kGaussianSide; ++k) {
        sum = fma(broadcast(R(gaussian_tap(k - kGaussianReach))), load<R>(row[k] + x), sum);
      }
      if (x + kWidth <= job_.width) {
        write<true>(to + x, kWidth, sum);
      } else {
        write<false>(to + x, job_.width - x, sum);
      }
    }
  }

  const SaliencyJob& job_;
  int64_t image_, step_;
  R *a_, *sorted_, *median_, *smooth_;  // rings of rows, by row number modulo their number
  const R* zeros_;
  bool has_nan_[kMedianSide] = {};
};

template <class T>
void run_all(const SaliencyJob& job) {
  using R = real_of<T>;
  const int64_t rows = job.batch >= kManyImages ? job.height : kBandRows;
  const int64_t bands = (job.height + rows - 1) / rows;
  const int64_t tasks = job.batch * bands;
  const int64_t pixels = job.batch * job.height * job.width;
  const int threads = pixels < kSerialPixels ? 1 : job.threads;
  const int64_t each = kRows * step_of<R>(job.width);
  const Workspace<R> scratch(threads * each);
  for (int64_t i = 0; i < threads * each; ++i) scratch.data[i] = 0;
  const auto task = [&](int64_t t, R* own) __attribute__((always_inline)) {
    const int64_t first = t % bands * rows;
    const int64_t last = first + rows < job.height ? first + rows : job.height;
    Band<T>(job, t / bands, own).run(first, last);
  };
  if (threads == 1) {
    for (int64_t t = 0; t < tasks; ++t) task(t, scratch.data);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    R* own = scratch.data + omp_get_thread_num() * each;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tasks; ++t) task(t, own);
  }
}

}  // namespace

void smooth_saliency_cpu(const SaliencyJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { run_all<decltype(zero)>(job); });
}

}  // namespace medad::MEDAD_ISA
