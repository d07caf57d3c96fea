// One training step, and one evaluation, of a model on this rank: microbatches in, numbers out.
//
// Everything above it (loop, files, screen) lives in trainer.h; `probe` and the benchmarks use it directly.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>

#include "core/config/config.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
#include "parallel/groups.h"
#include "parallel/stage.h"
#include "parallel/zero/data_parallel.h"

namespace trireme {

// One microbatch in host memory, i32 [batch, sequence] each.
struct HostMicrobatch {
  int64_t batch = 0;
  int64_t sequence = 0;
  const int32_t* tokens = nullptr;
  const int32_t* labels = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* document_start = nullptr;  // nullptr: attention sees the whole sequence
};

class MicrobatchGraphs;

// What the host learns of a step.
struct StepNumbers {
  double loss = 0;                  // mean over the valid tokens of the global batch
  double grad_norm = 0;             // before clipping
  bool non_finite = false;          // loss or norm was NaN or Inf in this step or an earlier one; nothing was updated
  bool stop_asked = false;          // some data rank's `ask_stop` said yes
  int64_t valid_tokens = 0;         // of the global batch
  double exposed_comm_seconds = 0;  // the step was blocked by communication
};

class TrainStep {
 public:
  // All references outlive the object. Optimizer states are needed in `model`.
  TrainStep(Stream& stream, const Groups& groups, Transformer& model, const Config& config);
  ~TrainStep();

  // Runs a microbatch of this shape twice, and an evaluation, without counting: what libraries choose and allocate at
  // the first call of a shape is then there. Weights and states stay; gradients are overwritten.
  void warm_up(int64_t batch, int64_t sequence, bool mask_documents);
  // Forward and backward of all microbatches, gradient reduction; weights stay. `ask_stop` is called when the last
  // microbatch is queued; what it says reaches all data ranks with the numbers of this step. Collective over the data
  // ranks. The host does not wait for the device.
  void forward_backward(std::span<const HostMicrobatch> microbatches, const std::function<bool()>& ask_stop = nullptr);
  // The optimizer's update; `update` counts from 1. Queues the copy of the step's numbers to the host. The host does not
  // wait for the device.
  void update(double learning_rate, int64_t update);
  // The numbers of the oldest updated step that were not taken yet; waits for the device to have finished that step.
  // REQUIRES: there is one.
  StepNumbers take_numbers();
  size_t num_untaken() const { return readbacks_.size(); }

  // Mean loss over the valid tokens of these microbatches on all data ranks; 0 where there is none. Collective.
  double evaluate(std::span<const HostMicrobatch> microbatches);

  // For passes through the model's units outside of a step: their weights are there between these.
  UnitHooks& hooks() { return data_parallel_; }

 private:
  // On their way from the device.
  struct Readback {
    Tensor sums;        // f64 [kNumSums]
    Tensor valid;       // i64 [1]
    Tensor grad_norm;   // f32 [1]
    Tensor non_finite;  // i32 [1]
    std::unique_ptr<Event> copied;
    ExposedTime exposed;
  };

  // Forward and backward of one microbatch of the step under way.
  void run_microbatch(const HostMicrobatch& host, bool first, bool last);
  void count_valid(std::span<const HostMicrobatch> microbatches);
  void reduce(const Tensor& tensor);
  Readback start_readback();

  Stream& stream_;
  const Groups& groups_;
  Transformer& model_;
  StageRunner stage_;
  std::unique_ptr<MicrobatchGraphs> graphs_;  // none where microbatches run as they come
  DataParallel data_parallel_;
  Optimizer optimizer_;
  // On the device; over the world once reduced.
  Tensor sums_;          // f64 [kNumSums]: losses, ranks that ask to stop, squares of gradients
  Tensor loss_sum_;      // f64 [1], a part of `sums_`
  Tensor valid_;         // i64 [1]: labels that count
  Tensor grad_scale_;    // f32 [1]: 1 / valid
  ExposedTime exposed_;  // communication that compute waited for
  std::deque<Readback> readbacks_;
};

// Copies a microbatch to the stream's device; `loss_sum` f64 [1] is where the loss head adds its losses. Gradients are
// made where `grad_scale` (f32 [1]) is defined.
Microbatch upload(Stream& stream, const HostMicrobatch& host, const Tensor& loss_sum, const Tensor& grad_scale);

// Logits f32 [batch·sequence, V] of a forward pass without gradients.
Tensor forward_logits(Stream& stream, const Transformer& model, UnitHooks& hooks, const HostMicrobatch& host);
// Those of the last position only, on the host: [V].
std::vector<float> last_logits(Stream& stream, const Transformer& model, UnitHooks& hooks, const HostMicrobatch& host);

}  // namespace trireme
