// One training step, and one evaluation, of a model on this rank, in any layout: microbatches in, numbers out.
//
// Everything above it (loop, files, screen) lives in trainer.h; `probe`, `verify` and the benchmarks use it directly.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "core/config/config.h"
#include "launcher/microbatch.h"
#include "launcher/model_work.h"
#include "launcher/moe_step.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
#include "parallel/groups.h"
#include "parallel/pipeline/executor.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/zero/data_parallel.h"

namespace trireme {

class MicrobatchGraphs;

// What the host has to say when the last microbatch of a step is queued.
struct HostNews {
  bool stop_asked = false;  // a signal came
  bool is_saving = false;   // this rank still writes its part of a checkpoint
};

// What the host learns of a step.
struct StepNumbers {
  double loss = 0;  // mean over the valid tokens of the global batch
  // Of modules of multi-token prediction: the mean over them of Σ losses / valid tokens, without its weight λ; no part of
  // `loss`.
  double prediction_loss = 0;
  double grad_norm = 0;             // before clipping
  bool non_finite = false;          // loss or norm was NaN or Inf in this step or an earlier one; nothing was updated
  bool stop_asked = false;          // some rank's news
  bool is_saving = false;           // likewise
  int64_t valid_tokens = 0;         // of the global batch
  double exposed_comm_seconds = 0;  // the step was blocked by the reduction of gradients
  double bubble_seconds = 0;        // the step was blocked by other pipeline stages
  MoeNumbers moe = {};              // of models with experts
  std::vector<TimedAction> program = {};  // this rank's computations, where there are several stages; seconds
};

class TrainStep {
 public:
  // All references outlive the object. Optimizer states are needed in `model`. Calls are collective over the world.
  TrainStep(Stream& stream, const Groups& groups, Transformer& model, const Config& config);
  ~TrainStep();

  // Runs a microbatch of this shape twice, and an evaluation, without counting: what libraries choose and allocate at
  // the first call of a shape is then there. Weights and states stay; gradients are overwritten.
  void warm_up(int64_t batch, int64_t sequence, bool mask_documents);
  // Weights' shards were loaded: values that a rank keeps outside of its shard are gathered.
  void weights_changed() { data_parallel_.after_update(stream_); }
  // Forward and backward of all microbatches, gradient reduction; weights stay. `ask_news` is called when the last
  // microbatch is queued; what it says reaches all ranks with the numbers of this step. The host does not wait for the
  // device.
  void forward_backward(std::span<const HostMicrobatch> microbatches,
                        const std::function<HostNews()>& ask_news = nullptr);
  // The optimizer's update; `update` counts from 1. Queues the copy of the step's numbers to the host. The host does not
  // wait for the device.
  void update(double learning_rate, int64_t update);
  // The numbers of the oldest updated step that were not taken yet; waits for the device to have finished that step.
  // REQUIRES: there is one.
  StepNumbers take_numbers();
  size_t num_untaken() const { return readbacks_.size(); }

  // Mean loss over the valid tokens of these microbatches on all data ranks; 0 where there is none.
  double evaluate(std::span<const HostMicrobatch> microbatches);
  // The same, and the logits: for each microbatch f32 [N, rows of the table on this rank]; none on ranks without the
  // loss head.
  std::vector<Tensor> logits(std::span<const HostMicrobatch> microbatches);
  // One forward pass without gradients; `see` is called with what each unit of this rank gives. Returns the sum of the
  // losses over the world.
  double watch_forward(const HostMicrobatch& microbatch, const std::function<void(size_t unit, const Tensor&)>& see);

  const Schedule& schedule(int64_t num_microbatches, bool forward_only);

 private:
  // On their way from the device.
  struct Readback {
    Tensor sums;        // f64 [kNumSums]
    Tensor valid;       // i64 [1]
    Tensor grad_norm;   // f32 [1]
    Tensor non_finite;  // i32 [1]
    MoeStep::Readback moe;
    int64_t num_tokens = 0;  // of the global batch, on the host
    std::unique_ptr<Event> copied;
    ExposedTime exposed;
    std::unique_ptr<ProgramTimes> program;  // where there are several stages
  };

  // Runs the configured schedule over these microbatches.
  void run_schedule(std::span<const HostMicrobatch> microbatches, const Tensor& grad_scale);
  void run_graphs(std::span<const HostMicrobatch> microbatches);
  bool takes_graph(const HostMicrobatch& host) const;
  void count_valid(std::span<const HostMicrobatch> microbatches);
  void reduce_sums();
  Readback start_readback();

  Stream& stream_;
  const Groups& groups_;
  Transformer& model_;
  ParallelConfig parallel_;
  DataParallel data_parallel_;
  ModelWork work_;
  std::map<std::pair<int64_t, bool>, Schedule> schedules_;  // by microbatches and forward_only
  std::unique_ptr<MicrobatchGraphs> graphs_;                // none where microbatches run as they come
  Optimizer optimizer_;
  MoeStep moe_step_;
  int64_t num_tokens_ = 0;  // of the step's global batch
  // On the device; over the world once reduced.
  Tensor sums_;          // f64 [kNumSums]: losses, squares of gradients, ranks with news
  Tensor loss_sum_;      // f64 [1], a part of `sums_`
  Tensor valid_;         // i64 [1]: labels that count
  Tensor grad_scale_;    // f32 [1]: 1 / valid
  ExposedTime exposed_;  // communication that compute waited for
  std::unique_ptr<ProgramTimes> program_times_;
  std::deque<Readback> readbacks_;
};

// Logits f32 [batch·sequence, V] of a forward pass without gradients, through a model that one rank holds.
Tensor forward_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host);
// Those of the last position only, on the host: [V].
std::vector<float> last_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host);

}  // namespace trireme
