// MEDAD_HD: a function for host and device, forced inline, so that no copy of it made for one
// instruction set serves another (core/cpu_level.h).
#pragma once

#ifdef __CUDACC__
#define MEDAD_HD __host__ __device__ __forceinline__
#else
#define MEDAD_HD inline __attribute__((always_inline))
#endif
