// A warp's product of tiles in shared memory: 16 rows by any number of 8-column tiles.
//
// On tensor cores from sm_80 on, through the one instruction m16n8k8 in TF32: once where the
// factors fit its 11 bits (16-bit inputs do), three times on split factors for float32 accuracy
// ("3xTF32": x = high + low, and low times low is dropped, an error of 2^-22). Elsewhere, and in
// float64, by ordinary multiply-adds over the same places. The host body of mma_tf32 rounds as the
// instruction does, so the emulation runs everything here but the instruction itself.
#pragma once

#include "core/gpu.cuh"

namespace medad {

enum class Precision { kOrdinary, kTf32, kTf32x3 };

// Where a lane's share of the tiles lies (PTX ISA, "Matrix fragments for mma.m16n8k8"): accumulator
// element e of the 16x8 result, element e of the 16x8 factor a, element e of the 8x8 factor b.
MEDAD_HD constexpr int sum_row(int lane, int e) { return lane / 4 + e / 2 * 8; }
MEDAD_HD constexpr int sum_column(int lane, int e) { return lane % 4 * 2 + e % 2; }
MEDAD_HD constexpr int a_row(int lane, int e) { return lane / 4 + e % 2 * 8; }
MEDAD_HD constexpr int a_depth(int lane, int e) { return lane % 4 + e / 2 * 4; }
MEDAD_HD constexpr int b_depth(int lane, int e) { return lane % 4 + e * 4; }
MEDAD_HD constexpr int b_column(int lane, int) { return lane / 4; }

// To the nearest TF32, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  return x != x ? float_bits(x) : (float_bits(x) + 0x1000u) & 0xffffe000u;
#endif
}

// sum += a b over 8 of depth; the low 13 bits of the factors are not read.
__device__ __forceinline__ void mma_tf32(float (&sum)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(MEDAD_EMULATION)
  emulation::LaneWords mine{{a[0], a[1], a[2], a[3], b[0], b[1], 0, 0}};
  const emulation::LaneWords* all =
      emulation::Scheduler::get().exchange(~0u, mine, MEDAD_EMULATION_PLACE);
  float left[16][8], right[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    for (int e = 0; e < 4; ++e) {
      left[a_row(lane, e)][a_depth(lane, e)] = float_from_bits(all[lane].word[e] & 0xffffe000u);
    }
    for (int e = 0; e < 2; ++e) {
      right[b_depth(lane, e)][b_column(lane, e)] =
          float_from_bits(all[lane].word[4 + e] & 0xffffe000u);
    }
  }
  const int lane = emulation::lane();
  for (int e = 0; e < 4; ++e) {
    for (int k = 0; k < 8; ++k) {
      sum[e] += left[sum_row(lane, e)][k] * right[k][sum_column(lane, e)];
    }
  }
#else
  (void)sum, (void)a, (void)b;  // never called: kHasTensorCores is false
#endif
}

#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800) || defined(MEDAD_EMULATION_NO_TENSOR_CORES)
constexpr bool kHasTensorCores = false;
#else
constexpr bool kHasTensorCores = true;
#endif

// The high and low parts of x; low is not computed where one part is all there is.
template <Precision kPrecision>
__device__ __forceinline__ void split_tf32(float x, uint32_t& high, uint32_t& low) {
  high = to_tf32(x);
  low = kPrecision == Precision::kTf32x3 ? to_tf32(x - float_from_bits(high)) : 0;
}

// sum[t] += a (16 x depth, row-major, step a_step) times columns first + t * stride .. + 8 of b,
// for the tiles t < tiles. b is depth x columns with step b_step, or stored transposed. depth is a
// multiple of 8. All lanes of the warp call this together.
template <Precision kPrecision, bool kTransposedB, int kTiles, class C>
__device__ __forceinline__ void warp_multiply(C (&sum)[kTiles][4], int tiles, Span<const C> a,
                                              int a_step, Span<const C> b, int b_step, int first,
                                              int stride, int depth) {
  const int lane = threadIdx.x % 32;
  const auto b_at = [&](int k, int column) {
    return kTransposedB ? b[column * b_step + k] : b[k * b_step + column];
  };
  if constexpr (kPrecision != Precision::kOrdinary && kHasTensorCores) {
    for (int k = 0; k < depth; k += 8) {
      uint32_t high_a[4], low_a[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        split_tf32<kPrecision>(a[a_row(lane, e) * a_step + k + a_depth(lane, e)], high_a[e],
                               low_a[e]);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t >= tiles) break;
        uint32_t high_b[2], low_b[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          split_tf32<kPrecision>(b_at(k + b_depth(lane, e), first + t * stride + b_column(lane, e)),
                                 high_b[e], low_b[e]);
        }
        if (kPrecision == Precision::kTf32x3) {  // small terms first
          mma_tf32(sum[t], low_a, high_b);
          mma_tf32(sum[t], high_a, low_b);
        }
        mma_tf32(sum[t], high_a, high_b);
      }
    }
  } else {
    for (int k = 0; k < depth; ++k) {
      const C upper = a[sum_row(lane, 0) * a_step + k], lower = a[sum_row(lane, 2) * a_step + k];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t >= tiles) break;
        const int column = first + t * stride + sum_column(lane, 0);
        const C left = b_at(k, column), right = b_at(k, column + 1);
        sum[t][0] += upper * left;
        sum[t][1] += upper * right;
        sum[t][2] += lower * left;
        sum[t][3] += lower * right;
      }
    }
  }
}

}  // namespace medad
