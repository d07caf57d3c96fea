// After a loss or gradient norm that isn't finite: where NaN or Inf first appears.
#pragma once

#include <string>
#include <vector>

#include "launcher/train_step.h"

namespace trireme {

// Looks at the weights, then runs the forward pass of each microbatch unit by unit, then looks at the gradients that
// the failed step left. Names the first tensor with a NaN or Inf: "weight NAME", "the output of layer 3, microbatch
// 0", "the loss of microbatch 1", "gradient NAME"; empty when none is found on this rank. Not collective.
std::string first_not_finite(Stream& stream, const Transformer& model, UnitHooks& hooks,
                             const std::vector<HostMicrobatch>& microbatches);

}  // namespace trireme
