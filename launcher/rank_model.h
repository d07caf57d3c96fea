// What of a run's model lies on this rank, and the step that trains it: what training, probes, comparisons and
// benchmarks have in common.
#pragma once

#include "core/config/config.h"
#include "launcher/rank_context.h"
#include "launcher/train_step.h"
#include "models/transformer.h"
#include "parallel/model_state.h"

namespace trireme {

struct RankModel {
  // Allocates weights (zero until they are initialised or loaded), gradients and states. Collective over the world;
  // `rank` outlives it. REQUIRES: the configuration was checked.
  RankModel(RankContext& rank, const Config& config);

  Transformer model;
  ModelState state;
  TrainStep step;
};

// The chunks of the model on the mesh's rank, by the configured schedule. Without `groups` it can't communicate beyond the
// tensor group: for plans.
ModelPlace model_place(const Config& config, const Mesh& mesh, const TensorGroup& tensor,
                       const Groups* groups = nullptr);
// What the configuration makes of a model on such a device.
Transformer::Options model_options(const Config& config, const Device& device);

}  // namespace trireme
