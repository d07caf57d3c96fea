// Which samples each step, microbatch and data rank takes.
//
// Step k (from 0) takes samples consumed(k) … consumed(k) + batch(k) - 1. With D data ranks and `micro`
// sequences per forward pass, microbatch j of rank d holds the sequences (j·D + d)·micro … of them. The
// batch may grow during a ramp-up, in equal increments over a number of consumed samples (as Megatron's
// --rampup-batch-size). All are pure functions of the step; a plan continues from any (step, consumed), also
// one that another batch size reached, and repeats or loses nothing.
// Thread safety: const after construction.
// Errors: ConfigError.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/config/config.h"

namespace trireme {

struct BatchPlanOptions {
  int64_t global = 0;  // sequences per step
  int64_t micro = 1;   // sequences per data rank and forward pass
  int64_t data_degree = 1;
  std::optional<BatchRamp> ramp = std::nullopt;
  // Where the plan continues: the next step, and the samples taken by the steps before it.
  int64_t first_step = 0;
  int64_t first_consumed = 0;
};

class BatchPlan {
 public:
  explicit BatchPlan(const BatchPlanOptions& options);

  // REQUIRES: step >= first_step, in all of these.
  int64_t consumed(int64_t step) const;
  int64_t batch(int64_t step) const;
  int64_t num_microbatches(int64_t step) const { return batch(step) / (micro_ * data_degree_); }
  // The first of the `micro` consecutive samples of a microbatch.
  int64_t first_sample(int64_t step, int64_t microbatch, int64_t data_rank) const;

  int64_t micro() const { return micro_; }
  int64_t data_degree() const { return data_degree_; }
  int64_t first_step() const { return phases_.front().step; }

 private:
  // Steps of one batch size, from `step` on until the next phase.
  struct Phase {
    int64_t step;
    int64_t consumed;
    int64_t batch;
  };
  const Phase& phase(int64_t step) const;

  int64_t micro_;
  int64_t data_degree_;
  std::vector<Phase> phases_;
};

}  // namespace trireme
