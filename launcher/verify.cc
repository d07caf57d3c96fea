#include "launcher/verify.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "core/device/cuda/cuda_device.h"
#include "launcher/layout_text.h"
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
  // Weights in bf16 begin rounded, and the experts' numbers are as rounded as the rest.
  return layout.worst_gradient() <= allowed() && layout.unmoved.empty() && layout.findings.empty();
}

bool VerifyReport::is_blurred() const {
  if (exact) return layout.choices.near_tie;
  const auto in_first_step = [](const RoutingTable::Difference& choices) { return choices.found && choices.step == 0; };
  return in_first_step(layout.choices) || in_first_step(rounding.choices);
}

std::string describe_layout(const Config& config) {
  const auto ranks = num_ranks(config.parallel);
  const Mesh mesh = resolve(config, ranks, 0, ranks);
  const int64_t count = resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree());
  std::string out;
  out += table_row("model", model_text(config.model));
  out += table_row("layout", layout_text(mesh, config.parallel));
  out += table_row("pipeline", pipeline_text(config));
  out += table_row("zero", zero_text(mesh, config.parallel));
  out += table_row("recompute", to_string(config.recompute.mode));
  out += table_row("precision", "compute " + to_string(config.precision.compute) + ", master " +
                                    to_string(config.precision.master) + ", gradients " +
                                    to_string(config.precision.gradients) + ", moments " +
                                    to_string(config.precision.optimizer_states));
  out += table_row("batch", std::to_string(config.batch.global) + " sequences of " +
                                std::to_string(config.data.sequence_length) + " tokens, " + std::to_string(count) +
                                (count == 1 ? " microbatch" : " microbatches") + " of " +
                                std::to_string(config.batch.micro) + " per data rank");
  return out;
}

std::string VerifyReport::str() const {
  std::string out;
  if (exact) {
    out += "largest difference from one rank after " + std::to_string(kVerifySteps) + " steps (allowed " +
           number(allowed()) + ")\n";
    out += table_row("loss", number(layout.loss));
    out += table_row("norm", number(layout.grad_norm));
    out += table_row("gradients", number(layout.worst_gradient()));
    out += table_row("weights", number(layout.worst_weight()));
  } else {
    out += "largest difference from one rank in fp32, gradients of the first step\n";
    out += table_row("gradients", number(layout.worst_gradient()) + " (allowed " + number(allowed()) + ": twice the " +
                                      number(rounding.worst_gradient()) + " of one rank in this precision, plus 1e-3)");
    out += table_row("loss", number(layout.loss) + " (one rank in this precision: " + number(rounding.loss) + ")");
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
  std::vector<std::string> lines = layout.findings;
  for (const std::string& name : layout.unmoved) lines.push_back(name + " has a gradient and did not move");
  if (exact) {
    lines.insert(lines.end(), layout.initial.begin(), layout.initial.end());
    lines.insert(lines.end(), layout.experts.begin(), layout.experts.end());
    if (layout.choices.found) lines.push_back(layout.choices.text);
  }
  for (const std::string& text : lines) out += "\n" + text;
  if (!lines.empty()) out += "\n";
  return out + "\n" + verdict();
}

std::string VerifyReport::verdict() const {
  if (!is_blurred()) {
    return passed() ? "the layout trains as one rank does\n" : "THE LAYOUT DOES NOT TRAIN AS ONE RANK DOES\n";
  }
  if (exact) {
    return "NOT DECIDED: the scores of these tokens are so near each other that rounding may have swapped them, and "
           "all "
           "that is behind differs.\nTry another seed: --set run.seed=…\n";
  }
  const auto who = [](const char* name, const LayoutComparison& c) {
    return table_row(name, c.choices.found ? c.choices.text : "no token chose other experts");
  };
  return "WARNING: in this precision rounding sends tokens to other experts than in fp32, on one rank as well:\n" +
         who("layout", layout) + who("one rank", rounding) +
         "Their experts' gradients differ by as much as they are large, so that this comparison shows gross faults at "
         "best.\nTo know, verify the layout in fp32: --set precision.compute=fp32\n\n" +
         (passed() ? "no gross fault seen; NOT SHOWN that the layout trains as one rank does\n"
                   : "THE LAYOUT DIFFERS FROM ONE RANK BY MORE THAN ROUNDING DOES ON ONE RANK\n");
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
  }
  return report;
}

}  // namespace trireme
