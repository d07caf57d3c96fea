// A model in training on random tokens, as the benchmarks time it: the trainer's own step, without files and data.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/config/config.h"
#include "launcher/precision.h"
#include "launcher/rank_context.h"
#include "launcher/rank_model.h"

namespace trireme {

// Runs optimizer steps of `batch.global` sequences, in microbatches of `batch.micro`, on every rank of the context.
// Times are the device's (CPU: the clock's). On a GPU the host runs one step ahead, as in training.
class StepRunner {
 public:
  // `config` and `rank` outlive it.
  StepRunner(RankContext& rank, const Config& config);

  int64_t num_microbatches() const { return num_microbatches_; }  // of each rank
  int64_t num_parameters() const { return count_parameters(config_.model); }
  DType compute() const { return precision_.compute; }

  // `count` steps: seconds of each, loss of the last, medians of what a step is made of, memory. Drawing tokens isn't
  // timed. Collective.
  nlohmann::json steps(int64_t count);
  // One more step with a mark around every layer: seconds of forward, backward, weight gradients, head, optimizer. It
  // runs a little slower than an unmarked one and without CUDA graphs. Collective.
  nlohmann::json phases();

 private:
  // Events around the two halves of a step.
  struct Marks {
    std::unique_ptr<Event> begin, middle, end;
  };

  void draw_tokens();
  Marks launch();
  // What the host learns of steps: seconds for which each was blocked.
  struct Blocked {
    std::vector<double> gradients;  // by the reduction of gradients and the gathering of weights
    std::vector<double> stages;     // by other pipeline stages
  };
  void take_numbers(Blocked& blocked);
  void wait_for_all();
  // Of all ranks.
  std::vector<double> largest(std::vector<double> values);

  RankContext& rank_;
  const Config& config_;
  Precision precision_;
  int64_t sequence_;
  int64_t local_batch_;  // sequences of this rank in a step
  int64_t num_microbatches_;
  RankModel model_;
  int64_t updates_ = 0;
  double loss_ = 0;
  std::vector<int32_t> tokens_, labels_, positions_;  // [local_batch, sequence]
  std::vector<HostMicrobatch> microbatches_;
};

double median(std::vector<double> values);

}  // namespace trireme
