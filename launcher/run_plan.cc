#include "launcher/run_plan.h"

#include <algorithm>
#include <cstdio>

#include "core/metrics/format.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {

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
  plan.memory = fullest(plan_memory(config, mesh, device.device));
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
  row("memory", human_bytes(memory.total()) + " per rank: parameters " + human_bytes(memory.parameters) +
                    ", gradients " + human_bytes(memory.gradients) + ", optimizer " + human_bytes(memory.optimizer) +
                    ", activations ~" + human_bytes(memory.activations));
  return out;
}

}  // namespace trireme
