// Checks across keys: contradictions, and what isn't built yet.
#include "core/config/experts_config.h"
#include "core/config/load.h"
#include "core/error.h"

namespace trireme {

namespace {

// Throws unless `built`.
void require_built(const KeyPlaces& places, bool built, const std::string& key, const std::string& found,
                   const std::string& expected) {
  if (built) return;
  throw ConfigError({.what = key + " " + found + " isn't built yet",
                     .expected = expected,
                     .found = found,
                     .where = place_of(places, key),
                     .hint = key + ": " + expected});
}

void require_degree_one(const KeyPlaces& places, const std::string& key, int64_t degree) {
  require_built(places, degree == 1, key, std::to_string(degree), "1");
}

void check_divides(const KeyPlaces& places, const std::string& key, int64_t whole, int64_t part) {
  if (whole % part == 0) return;
  const int64_t below = whole / part * part;
  throw ConfigError({.what = key + " is not a multiple of batch.micro",
                     .expected = "a multiple of " + std::to_string(part),
                     .found = std::to_string(whole),
                     .where = place_of(places, key),
                     .hint = (below > 0 ? std::to_string(below) + " or " : "") + std::to_string(below + part)});
}

}  // namespace

void check_consistent(const Config& config, const KeyPlaces& places) {
  const BatchConfig& batch = config.batch;
  check_divides(places, "batch.global", batch.global, batch.micro);
  if (batch.ramp) {
    check_divides(places, "batch.ramp.start", batch.ramp->start, batch.micro);
    check_divides(places, "batch.ramp.increment", batch.ramp->increment, batch.micro);
    if (batch.ramp->start > batch.global) {
      throw ConfigError({.what = "batch.ramp.start is above batch.global",
                         .expected = "at most " + std::to_string(batch.global),
                         .found = std::to_string(batch.ramp->start),
                         .where = place_of(places, "batch.ramp.start")});
    }
  }
  check_experts(config, places);
  const OptimizerConfig& optimizer = config.optimizer;
  if (optimizer.schedule.min_lr > optimizer.lr) {
    throw ConfigError({.what = "optimizer.schedule.min_lr is above optimizer.lr",
                       .expected = "at most the peak learning rate",
                       .where = place_of(places, "optimizer.schedule.min_lr")});
  }
  if (config.precision.master == MasterType::none && config.precision.compute == ComputeType::fp32) {
    throw ConfigError({.what = "precision.master: none keeps the weights in bf16 alone, and precision.compute is fp32",
                       .expected = "precision.compute: bf16 or auto",
                       .found = "fp32",
                       .where = place_of(places, "precision.master"),
                       .hint = "precision.master: fp32, which takes no memory of its own when the compute is fp32"});
  }
  const bool learned_positions = config.model.rope.type == RopeType::none;
  if (learned_positions && config.data.sequence_length > config.model.max_positions) {
    throw ConfigError({.what = "data.sequence_length is longer than the model's position table",
                       .expected = "at most " + std::to_string(config.model.max_positions),
                       .found = std::to_string(config.data.sequence_length),
                       .where = place_of(places, "data.sequence_length"),
                       .hint = "a larger model.max_position_embeddings or a shorter sequence"});
  }
  if (config.run.eval_every > 0 && config.data.valid.empty() && config.data.valid_fraction == 0) {
    throw ConfigError({.what = "run.eval_every asks for evaluations, but there is no validation data",
                       .expected = "data.valid_fraction above 0, or data.valid",
                       .where = place_of(places, "run.eval_every")});
  }
  if (config.profile.end && config.profile.end < config.profile.start.value_or(1)) {
    throw ConfigError({.what = "profile.end lies before profile.start",
                       .expected = "at least " + std::to_string(config.profile.start.value_or(1)),
                       .found = std::to_string(*config.profile.end),
                       .where = place_of(places, "profile.end")});
  }
}

void check_supported(const Config& config, const KeyPlaces& places) {
  const ParallelConfig& parallel = config.parallel;
  require_degree_one(places, "parallel.context", parallel.context);

  const PrecisionConfig& precision = config.precision;
  require_built(places, precision.compute != ComputeType::fp8, "precision.compute", "fp8", "auto");
}

}  // namespace trireme
