// Patch discrepancy on the GPU: the layers' distances, then their resize into the map.
//
// Bound by memory: each feature is read once, against 3 multiply-adds a pair. A block takes a run
// of positions of one image, all layers in one grid. Neighbouring threads read neighbouring
// positions, four at once where 16-byte loads are aligned, and the block's warps share out the
// channels, so that small deep maps fill the device too. Where the channels lie together
// (channels_last) a thread reads four of them at once instead, in the same order, and so comes to
// the same bits. Sums are doubles: 4 multiply-adds a pair hide behind the loads, and nothing else
// keeps the digits of nearly equal vectors in one pass (patch_discrepancy.h). The resize, and its
// adjoint, gather in a fixed order: no atomics, the same bits on every run.

#include "core/check.h"
#include "core/half.h"
#include "ops/patch_discrepancy/distance.cuh"
#include "ops/patch_discrepancy/heads.cuh"
#include "ops/patch_discrepancy/patch_discrepancy.h"
#include "ops/patch_discrepancy/resize.cuh"

namespace medad {
namespace {

// As many layers as the parameters of a kernel can hold at once.
template <class Visit>
void each_chunk(const DiscrepancyJob& job, Visit visit) {
  int64_t start = 0;
  for (int first = 0; first < job.layer_count; first += kMaxLayers) {
    const int count = job.layer_count - first < kMaxLayers ? job.layer_count - first : kMaxLayers;
    visit(first, count, start);
    for (int l = first; l < first + count; ++l) {
      start += job.batch * job.layers[l].height * job.layers[l].width;
    }
  }
}

template <class T>
void forward(const DiscrepancyJob& job, const Launch& launch) {
  using M = typename Compute<T>::type;
  const bool with_heads = job.layers[0].head.w1 != nullptr;
  each_chunk(job, [&](int first, int count, int64_t start) {
    if (with_heads) {
      launch_heads<T>(job, first, count, start, launch);
    } else {
      launch_discrepancy<T, false>(layers_of<T>(job, first, count, start), launch.stream);
    }
    const Resize<M> resize = resize_of<M>(job, first, count, start);
    const int64_t columns = (job.width + kThreads - 1) / kThreads;
    const int64_t rows = (job.height + kRowsPerBlock - 1) / kRowsPerBlock;
    const int64_t maps = job.batch * (job.separate ? count : 1);
    MEDAD_LAUNCH(resize_kernel<M>, grid_of(columns * rows * maps, "features"), dim3(kThreads), 0,
                 launch.stream, resize);
  });
}

template <class T>
void backward(const DiscrepancyJob& job, const Launch& launch) {
  using M = typename Compute<T>::type;
  each_chunk(job, [&](int first, int count, int64_t start) {
    const Resize<M> resize = resize_of<M>(job, first, count, start);
    MEDAD_LAUNCH(gather_kernel<M>, grid_of(job.batch * resize.rows, "features"),
                 dim3(kGatherThreads), 0, launch.stream, resize);
    launch_discrepancy<T, true>(layers_of<T>(job, first, count, start), launch.stream);
  });
}

}  // namespace

void patch_discrepancy_cuda(const DiscrepancyJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype, [&](auto zero) { forward<decltype(zero)>(job, launch); });
}

void patch_discrepancy_backward_cuda(const DiscrepancyJob& job, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_floating_type(job.dtype, [&](auto zero) { backward<decltype(zero)>(job, launch); });
}

}  // namespace medad
