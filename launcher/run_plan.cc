#include "launcher/run_plan.h"

#include <algorithm>
#include <cstdio>

#include "core/metrics/format.h"
#include "launcher/layout_text.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {

RunPlan make_run_plan(const Config& config, const Mesh& mesh, const RankDevice& device, int64_t train_tokens,
                      int threads) {
  const Precision precision = resolve_precision(config, device.device);
  const ModelConfig& m = config.model;
  RunPlan plan;
  plan.model = model_text(m);
  plan.layout = layout_text(mesh, config.parallel);
  if (mesh.degree(Axis::pipeline) > 1) plan.pipeline = pipeline_text(config);
  if (mesh.data_degree() > 1) plan.zero = zero_text(mesh, config.parallel);
  plan.device =
      device.str() + ", " + std::to_string(threads) + (threads == 1 ? " thread per rank" : " threads per rank");
  plan.precision = precision;
  plan.num_parameters = count_parameters(m);
  plan.num_active = count_active_parameters(m);
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
  const auto row = [&](const char* name, const std::string& value) { out += table_row(name, value); };
  row("model", model);
  const std::string active = ", of which a token meets " + human_count(static_cast<double>(num_active));
  row("parameters", human_count(static_cast<double>(num_parameters)) + (num_active < num_parameters ? active : ""));
  row("layout", layout);
  if (!pipeline.empty()) row("pipeline", pipeline);
  if (!zero.empty()) row("zero", zero);
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
