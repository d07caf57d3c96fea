// How the model is cut into pipeline chunks, and whether the schedule can run them.
#include <algorithm>
#include <numeric>
#include <string>

#include "core/error.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

std::string list_text(const std::vector<int64_t>& list) {
  std::string out;
  for (const int64_t n : list) out += (out.empty() ? "[" : ", ") + std::to_string(n);
  return out + "]";
}

// Equal numbers of layers, as if all weighed the same: dense or with experts, and whatever the head and modules of multi-token
// prediction add to the last chunk. Who wants it otherwise names the stages, with `trireme plan` to see what they weigh.
// Where the shares don't come out equal, one layer more goes to the chunks in the middle, the last of them first:
// the first chunk carries the embedding and the last one the loss head besides, and under 1f1b the earlier a stage, the
// more microbatches it keeps for backward. What still remains goes to the first chunk, whose embedding costs less than the
// head.
std::vector<int64_t> balanced(int64_t layers, int64_t chunks) {
  std::vector<int64_t> list(static_cast<size_t>(chunks), layers / chunks);
  int64_t rest = layers % chunks;
  for (int64_t c = chunks - 2; rest > 0; --c, --rest) ++list[static_cast<size_t>(c)];
  return list;
}

std::string chunks_text(const ParallelConfig& c, int64_t chunks) {
  const int64_t per_rank = chunks / c.pipeline;
  return "pipeline " + std::to_string(c.pipeline) +
         (per_rank > 1 ? " × virtual stages " + std::to_string(per_rank) : "") + " = " + std::to_string(chunks);
}

void check_enough_layers(const Config& config, int64_t chunks) {
  const int64_t layers = config.model.num_layers;
  if (layers >= chunks) return;
  const int64_t per_rank = chunks / config.parallel.pipeline;
  std::string hint;
  if (layers >= per_rank) hint = "parallel.pipeline: " + std::to_string(layers / per_rank);
  if (per_rank > 1 && layers >= config.parallel.pipeline) {
    const bool fixed = config.parallel.schedule == PipelineSchedule::zb_v;
    hint += std::string(hint.empty() ? "" : ", or ") +
            (fixed ? "parallel.schedule: zb_h1"
                   : "parallel.virtual_stages: " + std::to_string(layers / config.parallel.pipeline));
  }
  if (layers >= chunks - 2)
    hint += (hint.empty() ? "" : ", or ") + std::string("parallel.stages with 0 layers at an end");
  throw ConfigError({.what = "the model has fewer layers than the pipeline has chunks",
                     .expected = "at least " + chunks_text(config.parallel, chunks) + " layers",
                     .found = std::to_string(layers),
                     .where = "parallel.pipeline",
                     .hint = hint.empty() ? "more layers" : hint});
}

void check_given(const Config& config, const std::vector<int64_t>& stages, int64_t chunks) {
  const int64_t layers = config.model.num_layers;
  std::string hint = "parallel.stages: auto";
  if (layers >= chunks && chunks <= 16) hint += ", which is " + list_text(balanced(layers, chunks));
  const auto refuse = [&](const std::string& what, const std::string& expected, const std::string& found) {
    throw ConfigError({.what = what, .expected = expected, .found = found, .where = "parallel.stages", .hint = hint});
  };
  const auto length = static_cast<int64_t>(stages.size());
  if (length != chunks) {
    refuse("parallel.stages has the wrong length", chunks_text(config.parallel, chunks) + " numbers of layers",
           std::to_string(length));
  }
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t n = stages[static_cast<size_t>(c)];
    if (n < 0 || (n == 0 && c > 0 && c + 1 < chunks)) {
      refuse("chunk " + std::to_string(c) + " of parallel.stages has no layer",
             "at least 1; 0 only at the ends, which hold the embedding and the loss head", std::to_string(n));
    }
  }
  const int64_t sum = std::accumulate(stages.begin(), stages.end(), int64_t{0});
  if (sum != layers) {
    refuse("parallel.stages doesn't add up to the model's layers", std::to_string(layers),
           list_text(stages) + ", which is " + std::to_string(sum));
  }
}

}  // namespace

int64_t resolve_virtual_stages(const ParallelConfig& config) {
  const int64_t given = config.virtual_stages;
  if (config.schedule == PipelineSchedule::zb_v) {
    if (given <= 2) return 2;
    throw ConfigError({.what = "the schedule zb_v runs two chunks on each pipeline rank",
                       .expected = "1 or 2, which both mean two",
                       .found = std::to_string(given),
                       .where = "parallel.virtual_stages",
                       .hint = "parallel.virtual_stages: 2, or parallel.schedule: interleaved"});
  }
  if (config.schedule != PipelineSchedule::interleaved) {
    if (given == 1) return 1;
    throw ConfigError({.what = "the schedule " + to_string(config.schedule) + " runs one chunk on each pipeline rank",
                       .expected = "parallel.virtual_stages: 1",
                       .found = std::to_string(given),
                       .where = "parallel.virtual_stages",
                       .hint = "parallel.schedule: interleaved" + std::string(given == 2 ? " or zb_v" : "")});
  }
  const int64_t group = config.microbatch_group.value_or(config.pipeline);
  if (given > 1 && group < config.pipeline) {
    throw ConfigError(
        {.what = "parallel.microbatch_group is below the pipeline degree",
         .expected = std::to_string(config.pipeline) + " or more (above the microbatches of a step it changes nothing)",
         .found = std::to_string(group),
         .where = "parallel.microbatch_group",
         .hint = "parallel.microbatch_group: " + std::to_string(config.pipeline) + " (or auto)"});
  }
  return given;
}

std::vector<int64_t> resolve_stages(const Config& config) {
  const int64_t per_rank = resolve_virtual_stages(config.parallel);
  // Neither factor is bounded by the file, and no list is longer than the model.
  int64_t chunks = 0;
  if (__builtin_mul_overflow(config.parallel.pipeline, per_rank, &chunks)) chunks = INT64_MAX;
  if (!config.parallel.stages) {
    check_enough_layers(config, chunks);
    return balanced(config.model.num_layers, chunks);
  }
  check_given(config, *config.parallel.stages, chunks);
  return *config.parallel.stages;
}

}  // namespace trireme
