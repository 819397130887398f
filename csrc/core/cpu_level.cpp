#include "core/cpu_level.h"

#include <atomic>

namespace medad {
namespace {

CpuLevel detect() {
#ifdef MEDAD_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512) return CpuLevel::kAvx512;
  if (avx2) return CpuLevel::kAvx2;
#endif
  return CpuLevel::kBaseline;
}

std::atomic<CpuLevel>& level() {
  static std::atomic<CpuLevel> value{detect()};
  return value;
}

}  // namespace

CpuLevel best_cpu_level() {
  static const CpuLevel best = detect();
  return best;
}

CpuLevel cpu_level() { return level().load(std::memory_order_relaxed); }

void set_cpu_level(CpuLevel wanted) {
  level().store(wanted < best_cpu_level() ? wanted : best_cpu_level(), std::memory_order_relaxed);
}

}  // namespace medad
