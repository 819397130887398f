// Ensemble discrepancy on the GPU: a thread takes neighbouring pixels of every member.
//
// Bound by memory: each input is read once and each map written once, some five float32 operations
// a read, so that the arithmetic hides behind the loads on every device. Neighbouring threads read
// neighbouring pixels, coalesced whatever the number of members. With three members each, the
// paper's number, a thread has all its loads in flight at once (16 bytes each in float32) and keeps
// the values in registers; other numbers read the members again for their deviations, from L1.
// Pixels where float32 is not enough (ensemble_discrepancy.h) are computed again in double: rare,
// and out of the way of the others.

#include "core/gpu.cuh"
#include "ops/ensemble_discrepancy/ensemble_discrepancy.h"

namespace medad {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;  // enough to fill any GPU; the loop takes the rest
constexpr int kFour = 4;                 // pixels of a thread
constexpr int kThree = 3;

template <class T>
struct Side {
  Span<const T> data;
  int64_t member_stride, image_stride;
};

template <class T>
struct Ensembles {
  using R = typename Compute<T>::type;
  Side<T> unknown, normal, image, log_variance;
  Span<R> out;
  int unknown_members, normal_members;
  bool with_image, with_log_variance;
  int64_t images, pixels;
};

template <class T>
Side<T> side_of(const EnsembleJob& job, const EnsembleSide& side, int members) {
  const int64_t extent =
      (members - 1) * side.member_stride + (job.images - 1) * side.image_stride + job.pixels;
  return {span_of_extent<const T>(side.data, extent), side.member_stride, side.image_stride};
}

template <class T>
Ensembles<T> ensembles_of(const EnsembleJob& job) {
  using R = typename Compute<T>::type;
  Ensembles<T> e{};
  e.unknown = side_of<T>(job, job.unknown, job.unknown_members);
  e.normal = side_of<T>(job, job.normal, job.normal_members);
  e.image = side_of<T>(job, job.image, 1);
  e.log_variance = side_of<T>(job, job.log_variance, job.normal_members);
  e.with_image = job.image.data != nullptr;
  e.with_log_variance = job.log_variance.data != nullptr;
  e.out = span_of_extent<R>(job.out, (e.with_image ? 3 : 2) * job.images * job.pixels);
  e.unknown_members = job.unknown_members;
  e.normal_members = job.normal_members;
  e.images = job.images;
  e.pixels = job.pixels;
  return e;
}

// Where a pixel lies.
struct Place {
  int64_t image, pixel;
};

template <class T>
__device__ __forceinline__ Place place_of(const Ensembles<T>& e, int64_t i) {
  if (e.images == 1) return {0, i};
  const int64_t image = i / e.pixels;
  return {image, i - image * e.pixels};
}

template <class T>
__device__ __forceinline__ int64_t element(const Side<T>& side, int member, Place place) {
  return member * side.member_stride + place.image * side.image_stride + place.pixel;
}

template <class R, class T>
__device__ __forceinline__ R read(const Side<T>& side, int member, Place place) {
  return R(to_float(side.data[element(side, member, place)]));
}

template <class T, class R>
__device__ __forceinline__ void write(const Ensembles<T>& e, int64_t i,
                                      const EnsembleMaps<R>& maps) {
  using Out = typename Compute<T>::type;
  const int64_t map = e.images * e.pixels;
  e.out[i] = Out(maps.inter);
  e.out[map + i] = Out(maps.intra);
  if (e.with_image) e.out[2 * map + i] = Out(maps.reconstruction);
}

template <class T>
__device__ __forceinline__ void write_exact(const Ensembles<T>& e, int64_t i, Place place) {
  const auto sizes =
      sizes_of<double>(e.unknown_members, e.normal_members, e.with_image, e.with_log_variance);
  write(e, i,
        exact_maps<ScalarMath<double>>(
            sizes, [&](int k) { return read<double>(e.unknown, k, place); },
            [&](int k) { return read<double>(e.normal, k, place); },
            [&]() { return read<double>(e.image, 0, place); },
            [&](int k) { return read<double>(e.log_variance, k, place); }));
}

// Any number of members, any alignment: a pixel a thread. kQuick: in float32 where that is enough.
template <class T, bool kQuick>
__global__ void __launch_bounds__(kThreads, 2)
    ensemble_discrepancy_kernel(const __grid_constant__ Ensembles<T> e) {
  const int64_t step = int64_t(gridDim.x) * kThreads, count = e.images * e.pixels;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const Place place = place_of(e, i);
    bool trusted = false;
    if constexpr (kQuick) {
      const auto sizes =
          sizes_of<float>(e.unknown_members, e.normal_members, e.with_image, e.with_log_variance);
      const EnsembleMaps<float> maps = quick_maps<ScalarMath<float>>(
          sizes, [&](int k) { return read<float>(e.unknown, k, place); },
          [&](int k) { return read<float>(e.normal, k, place); },
          [&]() { return read<float>(e.image, 0, place); },
          [&](int k) { return read<float>(e.log_variance, k, place); }, trusted);
      if (trusted) write(e, i, maps);
    }
    if (!trusted) write_exact(e, i, place);
  }
}

// Three members each, kFour aligned pixels a thread.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    ensemble_discrepancy_of_three_kernel(const __grid_constant__ Ensembles<T> e) {
  const int64_t step = int64_t(gridDim.x) * kThreads * kFour, count = e.images * e.pixels;
  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kFour; i < count; i += step) {
    const Place place = place_of(e, i);
    Four<T> unknown[kThree], normal[kThree], log_variance[kThree] = {}, image = {};
#pragma unroll
    for (int k = 0; k < kThree; ++k) {
      unknown[k] = load_vector<Four<T>>(e.unknown.data, element(e.unknown, k, place));
      normal[k] = load_vector<Four<T>>(e.normal.data, element(e.normal, k, place));
    }
    if (e.with_image) image = load_vector<Four<T>>(e.image.data, element(e.image, 0, place));
    if (e.with_log_variance) {
#pragma unroll
      for (int k = 0; k < kThree; ++k) {
        log_variance[k] =
            load_vector<Four<T>>(e.log_variance.data, element(e.log_variance, k, place));
      }
    }
    const auto sizes = sizes_of<float>(kThree, kThree, e.with_image, e.with_log_variance);
    Four<float> inter, intra, reconstruction;
    unsigned untrusted = 0;
#pragma unroll
    for (int p = 0; p < kFour; ++p) {
      bool trusted = false;
      const EnsembleMaps<float> maps = quick_maps<ScalarMath<float>>(
          sizes, [&](int k) { return to_float(unknown[k].value[p]); },
          [&](int k) { return to_float(normal[k].value[p]); },
          [&]() { return to_float(image.value[p]); },
          [&](int k) { return to_float(log_variance[k].value[p]); }, trusted);
      inter.value[p] = maps.inter;
      intra.value[p] = maps.intra;
      reconstruction.value[p] = maps.reconstruction;
      untrusted |= unsigned(!trusted) << p;
    }
    store_vector(e.out, i, inter);
    store_vector(e.out, count + i, intra);
    if (e.with_image) store_vector(e.out, 2 * count + i, reconstruction);
    if (untrusted == 0) continue;
#pragma unroll 1
    for (int p = 0; p < kFour; ++p) {
      if (untrusted >> p & 1) write_exact(e, i + p, {place.image, place.pixel + p});
    }
  }
}

template <class T>
bool can_pack(const EnsembleJob& job) {
  bool whole = job.unknown_members == kThree && job.normal_members == kThree &&
               job.pixels % kFour == 0 &&
               reinterpret_cast<uintptr_t>(job.out) % sizeof(Four<float>) == 0;
  for (const EnsembleSide* side : {&job.unknown, &job.normal, &job.image, &job.log_variance}) {
    whole = whole && reinterpret_cast<uintptr_t>(side->data) % sizeof(Four<T>) == 0 &&
            side->member_stride % kFour == 0 && side->image_stride % kFour == 0;
  }
  return whole;
}

dim3 blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return dim3(unsigned(blocks < kMaxBlocks ? blocks : kMaxBlocks));
}

template <class T>
void launch_kernel(const EnsembleJob& job, void* stream) {
  const Ensembles<T> e = ensembles_of<T>(job);
  const int64_t count = job.images * job.pixels;
  const bool many = job.unknown_members > kMaxQuickMembers ||
                    job.normal_members > kMaxQuickMembers || job.normal_members == 1;
  if constexpr (sizeof(T) < 8) {
    if (can_pack<T>(job)) {
      MEDAD_LAUNCH(ensemble_discrepancy_of_three_kernel<T>, blocks_for(count / kFour),
                   dim3(kThreads), 0, stream, e);
      return;
    }
    if (!many) {
      MEDAD_LAUNCH((ensemble_discrepancy_kernel<T, true>), blocks_for(count), dim3(kThreads), 0,
                   stream, e);
      return;
    }
  }
  MEDAD_LAUNCH((ensemble_discrepancy_kernel<T, false>), blocks_for(count), dim3(kThreads), 0,
               stream, e);
}

}  // namespace

void ensemble_discrepancy_cuda(const EnsembleJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype,
                     [&](auto zero) { launch_kernel<decltype(zero)>(job, launch.stream); });
}

}  // namespace medad
