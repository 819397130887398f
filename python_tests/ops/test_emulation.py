"""The emulation finds the mistakes that it is there to find."""

from __future__ import annotations

import pytest
import torch

from python_tests.emulation import CSRC, ORDERS, EmulatedKernels, load

KERNELS = """
#include "core/gpu.cuh"

namespace medad {

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    row_sum_kernel(Argument<const float> rows, Argument<float> sums, int columns) {
  MEDAD_SHARED(float, warp_sums, kThreads / 32);
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += kThreads) sum += rows[blockIdx.x * columns + c];
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / 32; ++w) sum += warp_sums[w];
    sums[blockIdx.x] = sum;
  }
}

__global__ void mistake_kernel(Argument<float> out, int which) {
  MEDAD_DYNAMIC_SHARED(float, shared);
  const int t = threadIdx.x;
  switch (which) {
    case 0:  // no barrier between the write and the neighbour's read
      shared[t] = t;
      out[t] = shared[(t + 1) % blockDim.x];
      break;
    case 1:  // half of the threads stay away from the barrier
      if (t < 32) __syncthreads();
      break;
    case 2:  // two barriers where one is meant
      if (t < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case 3:  // one element too far
      out[t + 1] = 0;
      break;
    case 4:  // before the beginning of shared memory
      out[t] = shared[t - 1];
      break;
    case 5:  // a lane of the mask never shuffles
      if (t != 5) out[t] = __shfl_down_sync(~0u, float(t), 1);
      break;
    case 6:  // a vector from an odd element
      out[t] = load_vector<float2>(out, 1).x;
      break;
    case 7:  // shared memory that nobody wrote
      out[t] = shared[t];
      break;
    case 8:  // a lane outside the mask it names
      __syncwarp(0xfffffffe);
      break;
  }
}

void row_sum_cuda(const TensorView& rows, const TensorView& sums, const Launch& where) {
  const DeviceGuard guard(where.device);
  MEDAD_LAUNCH((row_sum_kernel<64>), dim3(rows.shape[0]), dim3(64), 0, where.stream,
               span_of<const float>(rows), span_of<float>(sums), int(rows.shape[1]));
  cuda_check(cudaGetLastError(), "row_sum launch");
}

void mistake_cuda(const TensorView& out, int which) {
  MEDAD_LAUNCH(mistake_kernel, dim3(1), dim3(64), 64 * sizeof(float), nullptr,
               span_of<float>(out), which);
}

__global__ void nothing_kernel() {}

void misplaced_cuda(int which, const Launch& where) {
  switch (which) {
    case 0:  // the default stream
      MEDAD_LAUNCH(nothing_kernel, dim3(1), dim3(32), 0, nullptr);
      break;
    case 1:  // the device that happens to be current
      MEDAD_LAUNCH(nothing_kernel, dim3(1), dim3(32), 0, where.stream);
      break;
    case 2:  // a device that nobody puts back
      cudaSetDevice(where.device);
      MEDAD_LAUNCH(nothing_kernel, dim3(1), dim3(32), 0, where.stream);
      break;
    case 3: {
      int memory = 0;
      const DeviceGuard guard(where.device);
      cudaMemsetAsync(&memory, 0, sizeof memory, nullptr);
      break;
    }
  }
}

}  // namespace medad
"""


@pytest.fixture(params=[(), ("-DMEDAD_EMULATION_UCONTEXT",)], ids=["assembly", "ucontext"])
def kernels(request: pytest.FixtureRequest) -> EmulatedKernels:
    return load(KERNELS, ("row_sum_cuda", "mistake_cuda", "misplaced_cuda"), request.param)


@pytest.mark.parametrize(("order", "seed"), ORDERS)
def test_a_right_kernel_is_right_in_every_order(kernels, order, seed):
    rows = torch.rand(7, 100, generator=torch.Generator().manual_seed(0))
    sums = torch.full((7,), float("nan"))
    before = kernels.launches
    with kernels.order(order, seed):
        kernels.call("row_sum_cuda", rows, sums, None)
    torch.testing.assert_close(sums, rows.sum(1))
    assert kernels.launches == before + 1


def test_a_missing_barrier_shows_in_the_result(kernels):
    results = []
    for order, seed in ORDERS:
        out = torch.zeros(64)
        with kernels.order(order, seed):
            kernels.call("mistake_cuda", out, 0)
        results.append(out)
    assert results[0].isnan().any()
    assert not torch.equal(results[0].nan_to_num(-1), results[1].nan_to_num(-1))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (1, "a barrier that this thread has ended without"),
        (2, "threads wait at different barriers"),
        (3, "element 64 of a span of 64"),
        (4, "element -1 of a span of 64"),
        (5, "a warp operation that not all lanes of its mask reach"),
        (6, "a misaligned access of 8 bytes"),
        (8, "a lane outside its own mask"),
    ],
)
@pytest.mark.parametrize(("order", "seed"), ORDERS)
def test_a_mistake_is_named(kernels, which, message, order, seed):
    with kernels.order(order, seed), pytest.raises(RuntimeError, match=message):
        kernels.call("mistake_cuda", torch.zeros(64), which)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "launch: another stream"),
        (1, "launch: another device"),
        (2, "the caller's device was not put back"),
        (3, "cudaMemsetAsync: another stream"),
    ],
)
def test_work_in_the_wrong_place_is_named(kernels, which, message):
    with pytest.raises(RuntimeError, match=message):
        kernels.call("misplaced_cuda", which, None)


def test_what_waits_for_the_gpu_is_not_there():
    names = (CSRC / "emulation" / "cuda_names.h").read_text()
    assert "cudaMemsetAsync" in names
    for call in ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMalloc", "cudaMemcpy"):
        assert call not in names


def test_shared_memory_starts_as_nan(kernels):
    out = torch.zeros(64)
    kernels.call("mistake_cuda", out, 7)
    assert out.isnan().all()
