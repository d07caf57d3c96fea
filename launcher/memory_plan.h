// How much memory a layout takes, before anything is allocated.
#pragma once

#include <cstdint>
#include <vector>

#include "core/config/config.h"
#include "core/device/device.h"
#include "parallel/mesh.h"

namespace trireme {

// Bytes of one rank of a pipeline stage.
struct StageMemory {
  int64_t parameters = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t activations = 0;  // an estimate: what the microbatches under way keep for backward, and the largest temporary

  int64_t total() const { return parameters + gradients + optimizer + activations; }
};

// Of each stage of the mesh. The first three are exact (models/transformer.h, model_memory) but for gaps in buckets; what ZeRO
// gathers for a while is not among them.
std::vector<StageMemory> plan_memory(const Config& config, const Mesh& mesh, const Device& device);
StageMemory fullest(const std::vector<StageMemory>& stages);

}  // namespace trireme
