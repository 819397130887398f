// MEDAD_HD: a function for host and device, forced inline, so that no copy of it made for one
// instruction set serves another (core/cpu_level.h).
#pragma once

#ifdef __CUDACC__
#define MEDAD_HD __host__ __device__ __forceinline__
#else
#define MEDAD_HD inline __attribute__((always_inline))
#endif

// Before a loop of a few constant turns that is to leave nothing but its body, turn by turn.
#if defined(__CUDA_ARCH__)
#define MEDAD_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define MEDAD_UNROLL  // nvcc's pass for the host knows neither
#else
#define MEDAD_UNROLL _Pragma("GCC unroll 8")
#endif
