#include "launcher/verify.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "core/device/cuda/cuda_device.h"
#include "launcher/precision.h"
#include "launcher/rank_device.h"
#include "launcher/shrink.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", value);
  return text;
}

std::string row(const std::string& name, const std::string& value) {
  char head[32];
  std::snprintf(head, sizeof head, "  %-12s ", name.c_str());
  return head + value + "\n";
}

// "0, 30 × 1, 0"
std::string layers_text(const std::vector<int64_t>& stages) {
  std::string out;
  for (size_t i = 0; i < stages.size();) {
    size_t end = i;
    while (end < stages.size() && stages[end] == stages[i]) ++end;
    out += (out.empty() ? "" : ", ") + (end - i > 1 ? std::to_string(end - i) + " × " : "") + std::to_string(stages[i]);
    i = end;
  }
  return out;
}

std::string pipeline_text(const Config& config) {
  const ParallelConfig& p = config.parallel;
  if (p.pipeline == 1 && resolve_virtual_stages(p) == 1) return "none";
  const std::string chunks = std::to_string(resolve_virtual_stages(p));
  return to_string(p.schedule) + ", " + chunks + (chunks == "1" ? " chunk" : " chunks") + " per rank, layers " +
         layers_text(resolve_stages(config));
}

std::string zero_text(const Mesh& mesh, const ParallelConfig& p) {
  std::string out = "stage " + std::to_string(p.zero);
  if (p.zero == 0) return out;
  out += ", " + std::to_string(mesh.degree(Axis::data_shard)) + " ranks share a copy";
  if (p.zero == 3) out += ", keep_gathered " + to_string(p.keep_gathered) + ", prefetch " + std::to_string(p.prefetch);
  return out;
}

std::string model_text(const ModelConfig& m) {
  return to_string(m.family) + ", " + std::to_string(m.num_layers) + " layers, hidden " +
         std::to_string(m.hidden_size) + ", " + std::to_string(m.num_heads) + " heads (" +
         std::to_string(m.num_kv_heads) + " kv), feed-forward " + std::to_string(m.ffn_size) + ", vocabulary " +
         std::to_string(m.vocab_size) + (m.tie_embeddings ? ", tied" : "");
}

bool is_exact(const PrecisionConfig& precision, DType compute) {
  return compute == DType::f32 && precision.gradients == StateType::fp32 &&
         precision.optimizer_states == StateType::fp32;
}

DeviceChoice choose_device(const Config& config) {
  const bool enough = cuda::num_devices() >= num_ranks(config.parallel);
  return config.run.device == DeviceChoice::automatic && !enough ? DeviceChoice::cpu : config.run.device;
}

}  // namespace

bool VerifyReport::passed() const {
  if (exact) return layout.within(kExactTolerance);
  return layout.worst_gradient() <= allowed() && layout.unmoved.empty() && layout.findings.empty();
}

std::string describe_layout(const Config& config) {
  const auto ranks = num_ranks(config.parallel);
  const Mesh mesh = resolve(config, ranks, 0, ranks);
  const int64_t count = resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree());
  std::string out;
  out += row("model", model_text(config.model));
  out += row("layout", mesh.str() + (config.parallel.sequence ? ", sequence parallelism" : ""));
  out += row("pipeline", pipeline_text(config));
  out += row("zero", zero_text(mesh, config.parallel));
  out += row("recompute", to_string(config.recompute.mode));
  out +=
      row("precision", "compute " + to_string(config.precision.compute) + ", master " +
                           to_string(config.precision.master) + ", gradients " + to_string(config.precision.gradients) +
                           ", moments " + to_string(config.precision.optimizer_states));
  out += row("batch", std::to_string(config.batch.global) + " sequences of " +
                          std::to_string(config.data.sequence_length) + " tokens, " + std::to_string(count) +
                          (count == 1 ? " microbatch" : " microbatches") + " of " + std::to_string(config.batch.micro) +
                          " per data rank");
  return out;
}

std::string VerifyReport::str() const {
  std::string out;
  if (exact) {
    out += "largest difference from one rank after " + std::to_string(kVerifySteps) + " steps (allowed " +
           number(allowed()) + ")\n";
    out += row("loss", number(layout.loss));
    out += row("norm", number(layout.grad_norm));
    out += row("gradients", number(layout.worst_gradient()));
    out += row("weights", number(layout.worst_weight()));
  } else {
    out += "largest difference from one rank in fp32, gradients of the first step\n";
    out += row("gradients", number(layout.worst_gradient()) + " (allowed " + number(allowed()) + ": twice the " +
                                number(rounding.worst_gradient()) + " of one rank in this precision, plus 1e-3)");
    out += row("loss", number(layout.loss) + " (one rank in this precision: " + number(rounding.loss) + ")");
  }
  std::map<std::string, double> weights;
  for (const TensorError& e : layout.weights) weights[e.name] = e.error;
  size_t width = 9;
  for (const TensorError& e : layout.gradients) width = std::max(width, e.name.size());
  std::vector<TensorError> sorted = layout.gradients;
  if (exact) {
    std::stable_sort(sorted.begin(), sorted.end(), [&](const TensorError& a, const TensorError& b) {
      return std::max(a.error, weights[a.name]) > std::max(b.error, weights[b.name]);
    });
  }
  char line[256];
  std::snprintf(line, sizeof line, "\n  %-*s  gradient   weight\n", static_cast<int>(width), "parameter");
  out += line;
  for (const TensorError& e : sorted) {
    std::snprintf(line, sizeof line, "  %-*s  %8.1e %8.1e\n", static_cast<int>(width), e.name.c_str(), e.error,
                  weights[e.name]);
    out += line;
  }
  for (const std::string& name : layout.unmoved) out += "\n" + name + " has a gradient and did not move";
  for (const std::string& text : layout.findings) out += "\n" + text;
  if (!layout.unmoved.empty() || !layout.findings.empty()) out += "\n";
  return out + "\n" +
         (passed() ? "the layout trains as one rank does\n" : "THE LAYOUT DOES NOT TRAIN AS ONE RANK DOES\n");
}

VerifyReport verify(Config config) {
  config.run.device = choose_device(config);
  VerifyReport report;
  const auto ranks = static_cast<int>(num_ranks(config.parallel));
  const DType compute = resolve_precision(config, resolve_device(config, {0, ranks}).device).compute;
  report.exact = is_exact(config.precision, compute);

  const LayoutInput input = make_layout_input(config, kVerifySteps, static_cast<uint64_t>(config.run.seed));
  Config in_fp32 = one_rank(config);
  in_fp32.precision = {.compute = ComputeType::fp32};
  const LayoutResult reference = run_layout(in_fp32, input);
  LayoutResult result = run_layout(config, input);
  report.layout = compare(result, reference, config);
  report.ranks = std::move(result.ranks);
  if (!report.exact) {
    report.rounding = compare(run_layout(one_rank(config), input), reference, config);
    // Weights in bf16 begin rounded.
    std::erase_if(report.layout.findings,
                  [](const std::string& text) { return text.starts_with("the initial values"); });
  }
  return report;
}

}  // namespace trireme
