#include "launcher/run_plan.h"

#include <algorithm>
#include <cstdio>

#include "core/metrics/format.h"
#include "models/loss_head.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

// What the blocks keep of one microbatch, by what TransformerBlock stashes under each recomputation mode; the largest
// temporary is the loss head's logits.
int64_t estimate_activations(const Config& config, DeviceType device, DType compute) {
  const ModelConfig& m = config.model;
  const int64_t tokens = config.batch.micro * config.data.sequence_length;
  const int64_t width = dtype_bytes(compute);
  const int64_t qkv = (m.num_heads + 2 * m.num_kv_heads) * m.head_dim;
  const int64_t up = m.ffn_size * (m.activation == Activation::swiglu ? 2 : 1);
  const int64_t input = tokens * m.hidden_size * width;
  const int64_t kept = tokens * (m.hidden_size + qkv + m.num_heads * m.head_dim + up) * width + input;
  const int64_t recomputable = tokens * (2 * m.hidden_size + m.ffn_size) * width;
  const int64_t whole = kept + recomputable;
  int64_t per_layer = whole;
  if (config.recompute.mode == RecomputeMode::selective) per_layer = kept;
  if (config.recompute.mode == RecomputeMode::full) per_layer = input;
  const int64_t logits = LossHead::chunks(device, compute, tokens, m.vocab_size).bytes(m.vocab_size);
  return m.num_layers * per_layer + (config.recompute.mode == RecomputeMode::full ? whole : 0) + logits;
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
  plan.parameter_bytes = plan.num_parameters * precision.weight_bytes();
  plan.gradient_bytes = plan.num_parameters * precision.gradient_bytes();
  plan.optimizer_bytes = plan.num_parameters * precision.optimizer_bytes();
  plan.activation_bytes = estimate_activations(config, device.device.type, precision.compute);
  return plan;
}

std::string RunPlan::str() const {
  const int64_t total = parameter_bytes + gradient_bytes + optimizer_bytes + activation_bytes;
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
  row("memory", human_bytes(total) + " per rank: parameters " + human_bytes(parameter_bytes) + ", gradients " +
                    human_bytes(gradient_bytes) + ", optimizer " + human_bytes(optimizer_bytes) + ", activations ~" +
                    human_bytes(activation_bytes));
  return out;
}

}  // namespace trireme
