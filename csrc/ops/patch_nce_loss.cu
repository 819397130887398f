#include "core/check.h"
#include "ops/patch_nce_loss.h"

namespace medad {

void patch_nce_loss_cuda(const PatchNceTensors&, const PatchNceOptions&, const Launch&) {
  MEDAD_CHECK(false, "not there");
}

}  // namespace medad
