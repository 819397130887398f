// Ensemble discrepancy on the CPU: one pass over all inputs.
//
// Bound by memory: every input is read once and every map written once; the arithmetic, some five
// operations a read, stays in registers and in float32 where that is good enough. Each pixel is
// computed by itself in one order: any number of threads, any batch around an image and any layout
// give the same bits.

#include "core/simd.h"
#include "ops/ensemble_discrepancy/ensemble_discrepancy.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kBlock = 2048;              // pixels of a task
constexpr int64_t kSerialElements = 1 << 14;  // below: not worth waking threads

struct QuickMath {
  using Value = FloatVector;
  using Mask = VectorOf<float>::integers;
  static MEDAD_INLINE FloatVector root(FloatVector x) {
#ifdef MEDAD_PACKED
    return MEDAD_PACKED(sqrt, ps, x);
#else
    for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
  }
  static MEDAD_INLINE FloatVector magnitude(FloatVector x) {
    return FloatVector(Mask(x) & INT32_MAX);
  }
  static MEDAD_INLINE FloatVector exponential(FloatVector x) { return exp_of_negative(x); }
  static MEDAD_INLINE FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
    return fma(a, b, c);
  }
  static MEDAD_INLINE bool all(Mask mask) {
#if defined(MEDAD_ISA_avx512)
    return _mm512_movepi32_mask(__m512i(mask)) == 0xffff;
#elif defined(MEDAD_ISA_avx2)
    return _mm256_movemask_ps(__m256(mask)) == 0xff;
#elif defined(MEDAD_X86)
    return _mm_movemask_ps(__m128(mask)) == 0xf;
#else
    bool result = true;
    for (int i = 0; i < kLanes<float>; ++i) result = result && mask[i];
    return result;
#endif
  }
};

struct ExactMath {
  using Value = DoubleVector;
  static MEDAD_INLINE DoubleVector root(DoubleVector x) {
#ifdef MEDAD_PACKED
    return MEDAD_PACKED(sqrt, pd, x);
#else
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
#endif
  }
  static MEDAD_INLINE DoubleVector magnitude(DoubleVector x) {
    using Integers = VectorOf<double>::integers;
    return DoubleVector(Integers(x) & INT64_MAX);
  }
  // e^x within 2 units in the last place, subnormal results included; NaN stays NaN.
  static MEDAD_INLINE DoubleVector exponential(DoubleVector x) {
    using Integers = VectorOf<double>::integers;
    x = x < -746.0 ? broadcast(-746.0) : x;  // e^-746 is 0, e^710 infinite
    x = x > 710.0 ? broadcast(710.0) : x;
    const DoubleVector magic = broadcast(0x1.8p52);  // adding it rounds to an integer
    const DoubleVector shifted = fma(x, broadcast(1.4426950408889634), magic);
    const DoubleVector n = shifted - magic;
    DoubleVector r = fma(n, broadcast(-6.93147180369123816490e-01), x);  // ln 2 in two parts
    r = fma(n, broadcast(-1.90821492927058770002e-10), r);
    // 1 / 12!, 1 / 11! and so on, down to 1 / 0!
    constexpr double kFactorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720,
                                      120,       24,       6,       2,      1,     1};
    DoubleVector p = broadcast(1.0 / 6227020800);
#pragma GCC unroll 13
    for (int i = 0; i < 13; ++i) p = fma(p, r, broadcast(1 / kFactorials[i]));
    // In two steps, since 2^n itself may lie outside the normal numbers.
    const Integers exponent = Integers(shifted) - Integers(magic);
    const Integers half = exponent >> 1;
    const DoubleVector low = DoubleVector((half + 1023) << 52);
    const DoubleVector high = DoubleVector((exponent - half + 1023) << 52);
    return p * low * high;
  }
};

// One half of a vector of floats.
MEDAD_INLINE DoubleVector half_of(FloatVector x, int half) {
  typedef float Narrow __attribute__((vector_size(4 * kLanes<double>)));
  Narrow part;
  __builtin_memcpy(&part, reinterpret_cast<const char*>(&x) + half * sizeof part, sizeof part);
  return __builtin_convertvector(part, DoubleVector);
}

MEDAD_INLINE void set_half(FloatVector& x, int half, DoubleVector value) {
  typedef float Narrow __attribute__((vector_size(4 * kLanes<double>)));
  const Narrow part = __builtin_convertvector(value, Narrow);
  __builtin_memcpy(reinterpret_cast<char*>(&x) + half * sizeof part, &part, sizeof part);
}

// A run of pixels in every tensor.
template <class T>
struct Run {
  const T *unknown, *normal, *image, *log_variance;  // of the first member
  int64_t unknown_stride, normal_stride, log_variance_stride;
  real_of<T>*inter, *intra, *reconstruction;
  int64_t count;
};

// Calls visit(unknown, normal, image, log_variance), which read vectors from pixel i on.
template <bool kWhole, class T, class Visit>
MEDAD_INLINE void with_readers(const Run<T>& run, int64_t i, Visit visit) {
  const int64_t left = run.count - i;
  visit(
      [&](int k) __attribute__((always_inline)) {
        return read<kWhole>(run.unknown + k * run.unknown_stride + i, left);
      },
      [&](int k) __attribute__((always_inline)) {
        return read<kWhole>(run.normal + k * run.normal_stride + i, left);
      },
      [&]() __attribute__((always_inline)) { return read<kWhole>(run.image + i, left); },
      [&](int k) __attribute__((always_inline)) {
        return read<kWhole>(run.log_variance + k * run.log_variance_stride + i, left);
      });
}

template <bool kWhole>
MEDAD_INLINE void exact_at(const Run<double>& run, const EnsembleSizes<double>& sizes, int64_t i,
                           EnsembleMaps<DoubleVector>& maps) {
  with_readers<kWhole>(run, i, [&](auto... readers) __attribute__((always_inline)) {
    maps = exact_maps<ExactMath>(sizes, readers...);
  });
}

// Not inline: it is seldom needed.
template <bool kWhole, class T>
__attribute__((noinline)) void exact_at(const Run<T>& run, const EnsembleSizes<double>& sizes,
                                        int64_t i, EnsembleMaps<FloatVector>& maps) {
  with_readers<kWhole>(
      run, i,
      [&](auto unknown, auto normal, auto image, auto log_variance) __attribute__((always_inline)) {
        for (int half = 0; half < 2; ++half) {
          const EnsembleMaps<DoubleVector> exact = exact_maps<ExactMath>(
              sizes,
              [&](int k) __attribute__((always_inline)) { return half_of(unknown(k), half); },
              [&](int k) __attribute__((always_inline)) { return half_of(normal(k), half); },
              [&]() __attribute__((always_inline)) { return half_of(image(), half); },
              [&](int k) __attribute__((always_inline)) { return half_of(log_variance(k), half); });
          set_half(maps.inter, half, exact.inter);
          set_half(maps.intra, half, exact.intra);
          set_half(maps.reconstruction, half, exact.reconstruction);
        }
      });
}

// A vector of pixels from i on. kQuick: where float32 is good enough, in float32.
template <bool kWhole, bool kQuick, class T>
MEDAD_INLINE void discrepancy_at(const Run<T>& run, const EnsembleSizes<float>& quick,
                                 const EnsembleSizes<double>& exact, int64_t i) {
  EnsembleMaps<Vector<real_of<T>>> maps;
  if constexpr (kQuick) {
    QuickMath::Mask trusted;
    with_readers<kWhole>(run, i, [&](auto... readers) __attribute__((always_inline)) {
      maps = quick_maps<QuickMath>(quick, readers..., trusted);
    });
    if (__builtin_expect(!QuickMath::all(trusted), 0)) {
      EnsembleMaps<FloatVector> slow;
      exact_at<kWhole>(run, exact, i, slow);
      maps.inter = trusted ? maps.inter : slow.inter;
      maps.intra = trusted ? maps.intra : slow.intra;
      maps.reconstruction = trusted ? maps.reconstruction : slow.reconstruction;
    }
  } else {
    exact_at<kWhole>(run, exact, i, maps);
  }
  const int64_t left = run.count - i;
  write<kWhole>(run.inter + i, left, maps.inter);
  write<kWhole>(run.intra + i, left, maps.intra);
  if (exact.image) write<kWhole>(run.reconstruction + i, left, maps.reconstruction);
}

template <bool kQuick, class T>
MEDAD_INLINE void discrepancy_run(const Run<T>& run, const EnsembleSizes<float>& quick,
                                  const EnsembleSizes<double>& exact) {
  constexpr int kWidth = kLanes<real_of<T>>;
  int64_t i = 0;
  for (; i + kWidth <= run.count; i += kWidth) {
    discrepancy_at<true, kQuick>(run, quick, exact, i);
  }
  if (i < run.count) discrepancy_at<false, kQuick>(run, quick, exact, i);
}

template <class T>
Run<T> run_of(const EnsembleJob& job, int64_t image, int64_t first) {
  const auto at = [&](const EnsembleSide& side) __attribute__((always_inline)) -> const T* {
    if (side.data == nullptr) return nullptr;
    return static_cast<const T*>(side.data) + image * side.image_stride + first;
  };
  const int64_t map = job.images * job.pixels;
  real_of<T>* out = static_cast<real_of<T>*>(job.out) + image * job.pixels + first;
  Run<T> run{};
  run.unknown = at(job.unknown);
  run.normal = at(job.normal);
  run.image = at(job.image);
  run.log_variance = at(job.log_variance);
  run.unknown_stride = job.unknown.member_stride;
  run.normal_stride = job.normal.member_stride;
  run.log_variance_stride = job.log_variance.member_stride;
  run.inter = out;
  run.intra = out + map;
  run.reconstruction = out + 2 * map;
  run.count = job.pixels - first < kBlock ? job.pixels - first : kBlock;
  return run;
}

template <class T>
void run_task(const EnsembleJob& job, int64_t task) {
  const int64_t blocks = (job.pixels + kBlock - 1) / kBlock;
  const Run<T> run = run_of<T>(job, task / blocks, task % blocks * kBlock);
  const bool image = run.image != nullptr, log_variance = run.log_variance != nullptr;
  const int unknown = job.unknown_members, normal = job.normal_members;
  const EnsembleSizes<float> quick = sizes_of<float>(unknown, normal, image, log_variance);
  const EnsembleSizes<double> exact = sizes_of<double>(unknown, normal, image, log_variance);
  if constexpr (sizeof(T) == 8) {
    discrepancy_run<false>(run, quick, exact);
  } else if (unknown > kMaxQuickMembers || normal > kMaxQuickMembers || normal == 1) {
    discrepancy_run<false>(run, quick, exact);
  } else if (unknown == 3 && normal == 3 && image && !log_variance) {
    // The paper's three members, known to the compiler.
    discrepancy_run<true>(run, sizes_of<float>(3, 3, true, false), exact);
  } else if (unknown == 3 && normal == 3 && image) {
    discrepancy_run<true>(run, sizes_of<float>(3, 3, true, true), exact);
  } else {
    discrepancy_run<true>(run, quick, exact);
  }
}

template <class T>
void run_all(const EnsembleJob& job) {
  const int64_t tasks = job.images * ((job.pixels + kBlock - 1) / kBlock);
  const int64_t reads = job.images * job.pixels * (job.unknown_members + job.normal_members);
  if (job.threads == 1 || reads < kSerialElements) {
    for (int64_t task = 0; task < tasks; ++task) run_task<T>(job, task);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(job.threads)
  for (int64_t task = 0; task < tasks; ++task) run_task<T>(job, task);
}

}  // namespace

void ensemble_discrepancy_cpu(const EnsembleJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { run_all<decltype(zero)>(job); });
}

}  // namespace medad::MEDAD_ISA
