// Runs the units of one pipeline stage: forward and backward of a microbatch, with recomputation.
//
// The runner knows nothing of schedules; it is called once for each action. It holds no state between calls: what
// is kept for backward lies in the StageStash that the caller owns.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/unit.h"

namespace trireme {

// What a stage keeps of one microbatch between forward and backward.
struct StageStash {
  std::vector<Stash> units;    // one for each unit
  std::vector<Tensor> inputs;  // of units under full recomputation
};

class StageRunner {
 public:
  // `recompute` has one entry for each unit. Full: only the unit's input is kept, backward runs its forward again.
  // Selective: see Unit::drop_recomputable.
  StageRunner(std::vector<Unit*> units, std::vector<RecomputeMode> recompute);

  // x: hidden states [N, C] from the previous stage, undefined on the first. Returns the stage's output, undefined
  // when the last unit is the loss head. Without gradients in the microbatch nothing is stashed.
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, StageStash& stash) const;

  // dy: gradient of the stage's output, undefined on the last stage. Returns the gradient of its input.
  // `unit_finished(i)` is called after the backward_weight of unit i.
  Tensor backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                  const std::function<void(size_t)>& unit_finished) const;

  const std::vector<Unit*>& units() const { return units_; }

 private:
  void recompute(Stream& stream, const Microbatch& microbatch, size_t unit, StageStash& stash) const;

  std::vector<Unit*> units_;
  std::vector<RecomputeMode> recompute_;
  // Of each unit, for traces: "forward blocks.3".
  std::vector<std::string> forward_names_;
  std::vector<std::string> backward_names_;
  std::vector<std::string> weight_names_;
};

}  // namespace trireme
