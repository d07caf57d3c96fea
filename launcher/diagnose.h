// After a loss or gradient norm that isn't finite: where NaN or Inf first appears.
#pragma once

#include <string>
#include <vector>

#include "launcher/rank_context.h"
#include "launcher/rank_model.h"

namespace trireme {

// Looks at the weights, then runs the forward pass of each microbatch unit by unit, then looks at the gradients that
// the failed step left. Names the first tensor with a NaN or Inf in this order, and the rank: "weight NAME, rank 3", "the
// output of layer 3, microbatch 0, rank 1", "the loss of microbatch 1", "gradient NAME, rank 0"; empty when none is found.
// Collective over the world; every rank gets the same words.
std::string first_not_finite(RankContext& rank, RankModel& model, const std::vector<HostMicrobatch>& microbatches);

}  // namespace trireme
