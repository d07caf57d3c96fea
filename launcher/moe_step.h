// What a step does about the experts beside training them: the counts of all layers are summed over the world, the selection
// biases take their step, and the numbers go to the host for the metrics.
#pragma once

#include <vector>

#include "models/transformer.h"
#include "parallel/comm/communicator.h"

namespace trireme {

// Of one step, over all ranks and layers.
struct MoeNumbers {
  std::vector<std::vector<int64_t>> load = {};  // slots that chose each expert, by layer
  int64_t dropped = 0;                          // slots whose expert was full
  double imbalance = 0;                         // the worst layer's greatest load / its mean
  double balance_loss = 0;                      // Σ of layers, mean over microbatches, times its coefficient
  double z_loss = 0;                            // likewise
  double entropy = 0;                           // of a token's probabilities over experts, mean over layers, nats
};

class MoeStep {
 public:
  // `model` and `world` outlive the object. Of a dense model every call does nothing.
  MoeStep(Transformer& model, const MoeConfig& config, Communicator& world);

  // Before the first microbatch of a step.
  void begin(Stream& stream);
  // After its last one and the optimizer's update: sums, and moves the biases unless `non_finite` i32 [1] says that the
  // step is skipped. Collective.
  void finish(Stream& stream, const Tensor& non_finite);

  struct Readback {
    Tensor counts;
    Tensor sums;
  };
  Readback start_readback(Stream& stream) const;
  // `num_tokens`: of the global batch.
  MoeNumbers read(const Readback& readback, int64_t num_tokens) const;

 private:
  Transformer& model_;
  MoeConfig config_;
  Communicator& world_;
};

}  // namespace trireme
