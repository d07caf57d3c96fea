#include "launcher/memory_plan.h"

#include <algorithm>

#include "launcher/configured_schedule.h"
#include "launcher/rank_model.h"
#include "models/loss_head.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

// What the blocks of a stage keep of the microbatches under way, by what TransformerBlock stashes under each
// recomputation mode; the largest temporary is the loss head's logits.
int64_t estimate_activations(const Config& config, const ModelPlace& place, int64_t stashes, DeviceType device,
                             DType compute) {
  const ModelConfig& m = config.model;
  const int64_t tensor = place.tensor.size();
  const int64_t tokens = config.batch.micro * config.data.sequence_length;
  const int64_t rows = place.tensor.num_rows(tokens);  // between the blocks
  const int64_t width = dtype_bytes(compute);
  const int64_t heads =
      (2 * m.num_heads + 2 * m.num_kv_heads) * m.head_dim / tensor;  // q, k, v and what attention gives
  const int64_t up = m.ffn_size * (m.activation == Activation::swiglu ? 2 : 1) / tensor;
  const int64_t input = rows * m.hidden_size * width;
  const int64_t kept = (tokens * (heads + up) + rows * m.hidden_size) * width + input;
  const int64_t recomputable = (2 * rows * m.hidden_size + tokens * m.ffn_size / tensor) * width;
  const int64_t whole = kept + recomputable;
  int64_t per_layer = whole;
  if (config.recompute.mode == RecomputeMode::selective) per_layer = kept;
  if (config.recompute.mode == RecomputeMode::full) per_layer = input;
  int64_t layers = 0;  // of a chunk
  for (const int chunk : place.chunks) layers = std::max(layers, place.layers_of_chunk[static_cast<size_t>(chunk)]);
  const int64_t vocab = (m.vocab_size + tensor - 1) / tensor;
  const int64_t logits = LossHead::chunks(device, compute, tokens, vocab).bytes(vocab);
  const bool has_head = place.chunks.back() + 1 == static_cast<int>(place.layers_of_chunk.size());
  return stashes * layers * per_layer + (config.recompute.mode == RecomputeMode::full ? whole : 0) +
         (has_head ? logits : 0);
}

}  // namespace

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
    const int64_t stashes = peak_stashes(schedule, static_cast<int>(stage));
    stages.push_back({memory.parameters, memory.gradients, memory.optimizer,
                      estimate_activations(config, place, stashes, device.type, options.compute)});
  }
  return stages;
}

StageMemory fullest(const std::vector<StageMemory>& stages) {
  return *std::max_element(stages.begin(), stages.end(),
                           [](const StageMemory& a, const StageMemory& b) { return a.total() < b.total(); });
}

}  // namespace trireme
