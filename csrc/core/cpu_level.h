// Which build of the CPU kernels runs: an op's cpu.cpp is compiled once per instruction set, into a
// namespace of that name, and called through MEDAD_CALL_CPU.
//
// A cpu.cpp must not instantiate templates or inline functions that other files share (the
// standard library's included) unless they are forced inline or in its own namespace: the linker
// keeps one copy of those, and it may be the one with instructions that this CPU lacks.
#pragma once

namespace medad {

enum class CpuLevel : int { kBaseline, kAvx2, kAvx512 };
inline constexpr const char* kCpuLevelNames[] = {"baseline", "avx2", "avx512"};

CpuLevel cpu_level();          // in use
CpuLevel best_cpu_level();     // what this CPU can run and this build contains
void set_cpu_level(CpuLevel);  // at most the best; for tests and benchmarks

}  // namespace medad

#ifdef MEDAD_X86
#define MEDAD_DECLARE_CPU(function, parameters) \
  namespace baseline {                          \
  void function parameters;                     \
  }                                             \
  namespace avx2 {                              \
  void function parameters;                     \
  }                                             \
  namespace avx512 {                            \
  void function parameters;                     \
  }
#define MEDAD_CALL_CPU(function, ...)    \
  do {                                   \
    switch (::medad::cpu_level()) {      \
      case ::medad::CpuLevel::kAvx512:   \
        avx512::function(__VA_ARGS__);   \
        break;                           \
      case ::medad::CpuLevel::kAvx2:     \
        avx2::function(__VA_ARGS__);     \
        break;                           \
      case ::medad::CpuLevel::kBaseline: \
        baseline::function(__VA_ARGS__); \
        break;                           \
    }                                    \
  } while (0)
#else
#define MEDAD_DECLARE_CPU(function, parameters) \
  namespace baseline {                          \
  void function parameters;                     \
  }
#define MEDAD_CALL_CPU(function, ...) baseline::function(__VA_ARGS__)
#endif
