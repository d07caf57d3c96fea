// One training step, and one evaluation, of a model on this rank: microbatches in, numbers out.
//
// Everything above it (loop, files, screen) lives in trainer.h; `probe` and the benchmarks use it directly.
#pragma once

#include <span>

#include "core/config/config.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
#include "parallel/comm/communicator.h"
#include "parallel/gradient_reducer.h"
#include "parallel/stage.h"

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

struct StepNumbers {
  double loss = 0;                  // mean over the valid tokens of the global batch
  double grad_norm = 0;             // before clipping
  bool non_finite = false;          // loss or norm was NaN or Inf in this step or an earlier one; nothing was updated
  int64_t valid_tokens = 0;         // of the global batch
  double exposed_comm_seconds = 0;  // the step was blocked by communication
};

class TrainStep {
 public:
  // `data` is the communicator over the data ranks. All references outlive the object. Optimizer states are needed in
  // `model`.
  TrainStep(Stream& stream, Communicator& data, Transformer& model, const Config& config);

  // Forward and backward of all microbatches, gradient reduction; weights stay. Collective over the data ranks.
  void forward_backward(std::span<const HostMicrobatch> microbatches);
  // The optimizer's update; `update` counts from 1.
  void update(double learning_rate, int64_t update);
  // The numbers of the last step; waits for the device.
  StepNumbers numbers();

  // Mean loss over the valid tokens of these microbatches on all data ranks; 0 where there is none. Collective.
  double evaluate(std::span<const HostMicrobatch> microbatches);

 private:
  int64_t count_valid(std::span<const HostMicrobatch> microbatches);
  void reduce_loss();

  Stream& stream_;
  Communicator& data_;
  Transformer& model_;
  StageRunner stage_;
  GradientReducer reducer_;
  Optimizer optimizer_;
  Tensor loss_sum_;  // f64 [1] on the device, over all data ranks once reduced
  Tensor valid_;     // i64 [1]
  int64_t valid_tokens_ = 0;
  double exposed_comm_seconds_ = 0;
};

// Copies a microbatch to the stream's device; `loss_sum` f64 [1] is where the loss head adds its losses. Gradients are
// made where `grad_scale` (f32 [1]) is defined.
Microbatch upload(Stream& stream, const HostMicrobatch& host, const Tensor& loss_sum, const Tensor& grad_scale);

// Logits f32 [batch·sequence, V] of a forward pass without gradients.
Tensor forward_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host);
// Those of the last position only, on the host: [V].
std::vector<float> last_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host);

}  // namespace trireme
