#include "launcher/memory_plan.h"

#include <algorithm>

#include "launcher/activation_plan.h"
#include "launcher/configured_schedule.h"
#include "launcher/rank_model.h"
#include "parallel/resolve.h"

namespace trireme {

std::vector<StageMemory> plan_memory(const Config& config, const Mesh& mesh, const Device& device) {
  const int64_t num_microbatches = resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree());
  const Schedule schedule = configured_schedule(config.parallel, num_microbatches, /*forward_only=*/false);
  const Transformer::Options options = model_options(config, device);
  std::vector<StageMemory> stages;
  for (int64_t stage = 0; stage < mesh.degree(Axis::pipeline); ++stage) {
    const Mesh there = mesh.at(Axis::pipeline, stage);
    const TensorGroup tensor =
        TensorGroup::planned(there.degree(Axis::tensor), there.coordinate(Axis::tensor), config.parallel.sequence);
    const ModelPlace place = model_place(config, there, tensor);
    const ModelMemory memory = model_memory(config.model, place, options);
    stages.push_back(
        {memory.parameters, memory.gradients, memory.optimizer,
         plan_activations(config, place, schedule, static_cast<int>(stage), device.type, options.compute)});
  }
  return stages;
}

StageMemory fullest(const std::vector<StageMemory>& stages) {
  return *std::max_element(stages.begin(), stages.end(),
                           [](const StageMemory& a, const StageMemory& b) { return a.total() < b.total(); });
}

}  // namespace trireme
