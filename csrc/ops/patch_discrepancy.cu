#include <stdexcept>

#include "ops/patch_discrepancy.h"

namespace medad {

void patch_discrepancy_cuda(const DiscrepancyJob&, const Launch&) {
  throw std::runtime_error("patch_discrepancy: no CUDA kernel in this build");
}

void patch_discrepancy_backward_cuda(const DiscrepancyJob&, const Launch&) {
  throw std::runtime_error("patch_discrepancy: no CUDA kernel in this build");
}

}  // namespace medad
