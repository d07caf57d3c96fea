#include "core/data/batch_plan.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace trireme {

namespace {

void check_divides(int64_t batch, const BatchPlanOptions& options, const std::string& where) {
  const int64_t unit = options.micro * options.data_degree;
  if (batch >= 1 && batch % unit == 0) return;
  const int64_t below = batch / unit * unit;
  throw ConfigError(
      {.what = "the batch can't be divided among the data ranks",
       .expected = "a multiple of " + std::to_string(unit) + " (batch.micro " + std::to_string(options.micro) +
                   " × data degree " + std::to_string(options.data_degree) + ")",
       .found = std::to_string(batch),
       .where = where,
       .hint =
           (below >= unit ? std::to_string(below) + " or " : "") + std::to_string(std::max<int64_t>(below, 0) + unit)});
}

void check(const BatchPlanOptions& options) {
  TRIREME_CHECK(options.data_degree >= 1 && options.first_step >= 0 && options.first_consumed >= 0);
  if (options.micro < 1) {
    throw ConfigError({.what = "the microbatch is empty",
                       .expected = "1 or more",
                       .found = std::to_string(options.micro),
                       .where = "batch.micro"});
  }
  check_divides(options.global, options, "batch.global");
  if (!options.ramp) return;
  const BatchRamp& ramp = *options.ramp;
  if (ramp.start < 1 || ramp.start > options.global || ramp.increment < 1 || ramp.samples < 0) {
    throw ConfigError({.what = "the batch ramp is out of range",
                       .expected = "1 <= start <= batch.global, increment >= 1, samples >= 0",
                       .found = "start " + std::to_string(ramp.start) + ", increment " +
                                std::to_string(ramp.increment) + ", samples " + std::to_string(ramp.samples),
                       .where = "batch.ramp"});
  }
  if ((options.global - ramp.start) % ramp.increment != 0) {
    throw ConfigError({.what = "the batch ramp doesn't reach the full batch",
                       .expected = "batch.global - start = " + std::to_string(options.global - ramp.start) +
                                   " to be a multiple of increment",
                       .found = std::to_string(ramp.increment),
                       .where = "batch.ramp.increment"});
  }
  check_divides(ramp.start, options, "batch.ramp.start");
  if (ramp.start < options.global) check_divides(ramp.increment, options, "batch.ramp.increment");
}

}  // namespace

BatchPlan::BatchPlan(const BatchPlanOptions& options) : micro_(options.micro), data_degree_(options.data_degree) {
  check(options);
  int64_t step = options.first_step;
  int64_t consumed = options.first_consumed;
  if (options.ramp && options.ramp->samples > 0) {
    const BatchRamp& ramp = *options.ramp;
    const int64_t increments = (options.global - ramp.start) / ramp.increment;
    // Increment n is due when consumed · increments >= n · samples.
    using Wide = __int128;
    while (consumed < ramp.samples && increments > 0) {
      const auto due = static_cast<int64_t>(Wide{consumed} * increments / ramp.samples);
      const int64_t batch = ramp.start + due * ramp.increment;
      phases_.push_back({step, consumed, batch});
      const auto next_due =
          static_cast<int64_t>((Wide{due + 1} * ramp.samples + increments - 1) / increments);  // in samples
      const int64_t steps = (next_due - consumed + batch - 1) / batch;
      step += steps;
      consumed += steps * batch;
    }
  }
  phases_.push_back({step, consumed, options.global});
}

const BatchPlan::Phase& BatchPlan::phase(int64_t step) const {
  TRIREME_CHECK(step >= first_step(), "a step before the plan begins");
  const auto next = std::upper_bound(phases_.begin(), phases_.end(), step,
                                     [](int64_t value, const Phase& candidate) { return value < candidate.step; });
  return *(next - 1);
}

int64_t BatchPlan::consumed(int64_t step) const {
  const Phase& p = phase(step);
  return p.consumed + (step - p.step) * p.batch;
}

int64_t BatchPlan::batch(int64_t step) const { return phase(step).batch; }

int64_t BatchPlan::first_sample(int64_t step, int64_t microbatch, int64_t data_rank) const {
  TRIREME_CHECK(microbatch >= 0 && microbatch < num_microbatches(step) && data_rank >= 0 && data_rank < data_degree_);
  return consumed(step) + (microbatch * data_degree_ + data_rank) * micro_;
}

}  // namespace trireme
