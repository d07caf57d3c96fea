#include "launcher/run_plan.h"

#include <algorithm>
#include <cstdio>

#include "core/metrics/format.h"
#include "launcher/configured_schedule.h"
#include "launcher/rank_model.h"
#include "models/loss_head.h"
#include "models/transformer.h"
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

// The fullest pipeline stage's.
void plan_memory(const Config& config, const Mesh& mesh, const Device& device, RunPlan& plan) {
  const Schedule schedule = configured_schedule(config.parallel, plan.num_microbatches, /*forward_only=*/false);
  for (int64_t stage = 0; stage < mesh.degree(Axis::pipeline); ++stage) {
    const Mesh there = mesh.at(Axis::pipeline, stage);
    const TensorGroup tensor =
        TensorGroup::planned(there.degree(Axis::tensor), there.coordinate(Axis::tensor), config.parallel.sequence);
    const ModelPlace place = model_place(config, there, tensor);
    const ModelMemory memory = model_memory(config.model, place, model_options(config, device));
    const int64_t activations = estimate_activations(config, place, peak_stashes(schedule, static_cast<int>(stage)),
                                                     device.type, plan.precision.compute);
    const int64_t total = memory.parameters + memory.gradients + memory.optimizer + activations;
    if (total <= plan.total_bytes()) continue;
    plan.parameter_bytes = memory.parameters;
    plan.gradient_bytes = memory.gradients;
    plan.optimizer_bytes = memory.optimizer;
    plan.activation_bytes = activations;
  }
}

}  // namespace

RunPlan make_run_plan(const Config& config, const Mesh& mesh, const RankDevice& device, int64_t train_tokens,
                      int threads) {
  const Precision precision = resolve_precision(config, device.device);
  const ModelConfig& m = config.model;
  RunPlan plan;
  plan.model = to_string(m.family) + ", " + std::to_string(m.num_layers) + " layers, hidden " +
               std::to_string(m.hidden_size) + ", " + std::to_string(m.num_heads) + " heads (" +
               std::to_string(m.num_kv_heads) + " kv), feed-forward " + std::to_string(m.ffn_size) + ", vocabulary " +
               std::to_string(m.vocab_size) + (m.tie_embeddings ? ", tied" : "");
  plan.layout = mesh.str();
  plan.device =
      device.str() + ", " + std::to_string(threads) + (threads == 1 ? " thread per rank" : " threads per rank");
  plan.precision = precision;
  plan.num_parameters = count_parameters(m);
  plan.num_microbatches = resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree());
  plan.tokens_per_step = config.batch.global * config.data.sequence_length;
  plan.total_tokens = plan.tokens_per_step * config.run.steps;
  plan.train_tokens = train_tokens;
  plan.flops_per_token = model_flops_per_token(m, config.data.sequence_length);
  plan_memory(config, mesh, device.device, plan);
  return plan;
}

std::string RunPlan::str() const {
  char epochs[32];
  std::snprintf(epochs, sizeof epochs, "%.2f",
                static_cast<double>(total_tokens) / static_cast<double>(std::max<int64_t>(1, train_tokens)));
  std::string out;
  const auto row = [&](const char* name, const std::string& value) {
    char line[40];
    std::snprintf(line, sizeof line, "  %-12s ", name);
    out += line + value + "\n";
  };
  row("model", model);
  row("parameters", human_count(static_cast<double>(num_parameters)));
  row("layout", layout);
  row("device", device);
  row("precision", precision.str());
  row("batch", human_count(static_cast<double>(tokens_per_step)) + " tokens per step, " +
                   std::to_string(num_microbatches) + (num_microbatches == 1 ? " microbatch" : " microbatches") +
                   " per data rank");
  row("tokens", human_count(static_cast<double>(total_tokens)) + " in the run, " + epochs + " epochs of " +
                    human_count(static_cast<double>(train_tokens)));
  row("memory", human_bytes(total_bytes()) + " per rank: parameters " + human_bytes(parameter_bytes) + ", gradients " +
                    human_bytes(gradient_bytes) + ", optimizer " + human_bytes(optimizer_bytes) + ", activations ~" +
                    human_bytes(activation_bytes));
  return out;
}

}  // namespace trireme
