// `trireme plan`: what follows from a configuration without running it: memory and the pipeline schedule.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/config/load.h"
#include "core/error.h"
#include "core/metrics/files.h"
#include "core/metrics/format.h"
#include "launcher/commands.h"
#include "launcher/configured_schedule.h"
#include "launcher/memory_plan.h"
#include "parallel/pipeline/checker.h"
#include "parallel/pipeline/timeline_drawing.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

constexpr int64_t kRanksPerNode = 8;  // until a cluster can be described

int64_t default_world(const ParallelConfig& c) { return c.tensor * c.context * c.pipeline * c.data.value_or(1); }

// "1:1.2:0.8"
std::vector<double> parse_times(const std::string& text) {
  std::vector<double> times;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(':', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    size_t used = 0;
    double value = -1;
    try {
      value = std::stod(word, &used);
    } catch (const std::exception&) {
    }
    times.push_back(used == word.size() && std::isfinite(value) ? value : -1);
    begin = end + 1;
  }
  if (times.size() != 3 || *std::min_element(times.begin(), times.end()) <= 0) {
    throw ConfigError({.what = "--times isn't three times of a layer",
                       .expected = "F:B:W, numbers above 0",
                       .found = text,
                       .hint = "--times 1:1:1"});
  }
  return times;
}

// Model FLOPs of a token in each chunk, an average chunk's layers being 1. Embeddings cost nothing.
struct ChunkWork {
  std::vector<double> layers;
  double head = 0;  // of the last chunk, modules of multi-token prediction in it

  // As printed: all that a chunk has.
  std::vector<double> whole() const {
    std::vector<double> all = layers;
    all.back() += head;
    return all;
  }
};

ChunkWork work_of(const Config& config, const std::vector<int64_t>& layers) {
  const int64_t sequence = config.data.sequence_length;
  ChunkWork work;
  int64_t layer = 0;
  for (const int64_t n : layers) {
    double& flops = work.layers.emplace_back(0.0);
    for (const int64_t end = layer + n; layer < end; ++layer) {
      flops += layer_flops_per_token(config.model, layer, sequence);
    }
  }
  work.head = head_flops_per_token(config.model, sequence);
  const double average =
      std::accumulate(work.layers.begin(), work.layers.end(), 0.0) / static_cast<double>(layers.size());
  for (double& flops : work.layers) flops /= average;
  work.head /= average;
  return work;
}

// An average chunk takes `times`. The loss head does all of its work in forward (models/loss_head.h).
ActionCosts costs_of(const ChunkWork& work, const std::vector<double>& times) {
  ActionCosts costs;
  for (const double share : work.layers) {
    costs.forward.push_back(share * times[0]);
    costs.backward_input.push_back(share * times[1]);
    costs.backward_weight.push_back(share * times[2]);
  }
  costs.forward.back() += work.head * (times[0] + times[1] + times[2]);
  return costs;
}

template <class Numbers>
std::string list_text(const Numbers& numbers) {
  std::string text;
  for (const auto n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return text;
}

std::string shares_text(const std::vector<double>& shares) {
  std::string text;
  for (const double share : shares) {
    char number[32];
    std::snprintf(number, sizeof number, "%.2f", share);
    text += (text.empty() ? "" : ", ") + std::string(number);
  }
  return text;
}

struct SchedulePlan {
  std::string layout;
  std::vector<StageMemory> memory;  // of each pipeline rank
  std::vector<int64_t> layers;      // of each chunk
  std::vector<double> work;         // likewise, FLOPs in those of an average chunk's layers
  std::string times;
  std::vector<int> peak_stashes;  // of each rank
  Timeline timeline;
};

SchedulePlan make_plan(const Config& config, const PlanArgs& args) {
  const Mesh mesh = resolve(config, args.gpus.value_or(default_world(config.parallel)), /*rank=*/0, kRanksPerNode);
  const int64_t num_microbatches = resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree());
  const Schedule schedule = configured_schedule(config.parallel, num_microbatches, /*forward_only=*/false);
  const CheckReport report = check(schedule);
  TRIREME_CHECK(report.ok(), report.violation);
  const std::vector<int64_t> layers = resolve_stages(config);
  const ChunkWork work = work_of(config, layers);
  const Device device{config.run.device == DeviceChoice::cpu ? DeviceType::cpu : DeviceType::cuda, 0};
  return {mesh.str(),
          plan_memory(config, mesh, device),
          layers,
          work.whole(),
          args.times,
          report.peak_stashes,
          simulate(schedule, costs_of(work, parse_times(args.times)))};
}

void print_text(const SchedulePlan& plan) {
  const auto row = [](const char* name, const std::string& value) { std::printf("  %-12s %s\n", name, value.c_str()); };
  char bubble[96];
  std::snprintf(bubble, sizeof bubble, "%.1f %% of the work, with times %s and free transfers",
                plan.timeline.max_bubble() * 100, plan.times.c_str());
  row("layout", plan.layout);
  const StageMemory most = fullest(plan.memory);
  row("memory", human_bytes(most.total()) + " per rank at most: parameters " + human_bytes(most.parameters) +
                    ", gradients " + human_bytes(most.gradients) + ", optimizer " + human_bytes(most.optimizer) +
                    ", activations ~" + human_bytes(most.activations));
  row("schedule", shape_of(plan.timeline.schedule));
  row("layers", list_text(plan.layers) + " (of each chunk)");
  row("work", shares_text(plan.work) + " (of each chunk, the head's in the last; an average chunk's layers are 1)");
  row("bubble", bubble);
  row("stashes", list_text(plan.peak_stashes) + " (of each pipeline rank, one for a microbatch in a chunk, at most)");
}

void print_json(const SchedulePlan& plan) {
  const Schedule& schedule = plan.timeline.schedule;
  std::vector<double> bubbles;
  for (int r = 0; r < schedule.num_ranks; ++r) bubbles.push_back(plan.timeline.bubble(r));
  nlohmann::ordered_json memory;
  for (const StageMemory& stage : plan.memory) {
    memory.push_back({{"parameters", stage.parameters},
                      {"gradients", stage.gradients},
                      {"optimizer", stage.optimizer},
                      {"activations", stage.activations}});
  }
  const nlohmann::ordered_json out = {{"layout", plan.layout},
                                      {"memory_bytes_of_rank", memory},
                                      {"schedule", schedule.name},
                                      {"pipeline", schedule.num_ranks},
                                      {"virtual_stages", schedule.num_chunks / schedule.num_ranks},
                                      {"microbatches", schedule.num_microbatches},
                                      {"layers_of_chunk", plan.layers},
                                      {"work_of_chunk", plan.work},
                                      {"rank_of_chunk", schedule.rank_of_chunk},
                                      {"times", plan.times},
                                      {"bubble", plan.timeline.max_bubble()},
                                      {"bubble_of_rank", bubbles},
                                      {"peak_stashes_of_rank", plan.peak_stashes}};
  std::printf("%s\n", out.dump(2).c_str());
}

void write_timeline(const SchedulePlan& plan, const std::filesystem::path& svg) {
  const DrawingOptions options{.title = {}, .unit = "forwards of an average chunk"};
  replace_file(svg, draw_svg(plan.timeline, options));
  replace_file(std::filesystem::path(svg).replace_extension(".json"), draw_perfetto(plan.timeline, options));
}

}  // namespace

int plan_command(const PlanArgs& args) {
  const std::filesystem::path svg = args.timeline;
  if (!svg.empty() && svg.extension() != ".svg") {
    throw ConfigError({.what = "--timeline writes an SVG",
                       .expected = "a name that ends in .svg",
                       .found = args.timeline,
                       .hint = "--timeline " + std::filesystem::path(svg).replace_extension(".svg").string()});
  }
  const SchedulePlan plan = make_plan(load_config(args.config, args.sets), args);
  args.json ? print_json(plan) : print_text(plan);
  if (!svg.empty()) write_timeline(plan, svg);
  return 0;
}

}  // namespace trireme
