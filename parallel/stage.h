// Runs the units of one chunk of the model (a pipeline stage, or a part of one): forward and backward of a microbatch,
// with recomputation, and with the hooks that gather values and reduce gradients.
//
// The runner knows nothing of schedules; it is called once for each action. It holds no state between calls: what
// is kept for backward lies in the StageStash that the caller owns.
#pragma once

#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/unit.h"
#include "parallel/unit_hooks.h"

namespace trireme {

// What a chunk keeps of one microbatch between forward and backward.
struct StageStash {
  std::vector<Stash> units;    // one for each unit
  std::vector<Tensor> inputs;  // of units under full recomputation
};

class StageRunner {
 public:
  // `recompute` has one entry for each unit. Full: only the unit's input is kept, backward runs its forward again.
  // Selective: see Unit::drop_recomputable. `first_unit`: how many units of the rank lie in chunks before this one; hooks
  // count all of them.
  StageRunner(std::vector<Unit*> units, std::vector<RecomputeMode> recompute, size_t first_unit = 0);

  // x: hidden states [N, C] from the chunk before, undefined on the first. Returns the chunk's output, undefined when the
  // last unit is the loss head. Without gradients in the microbatch nothing is stashed.
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, StageStash& stash,
                 UnitHooks& hooks) const;

  // dy: gradient of the chunk's output, undefined on the last one. Returns the gradient of its input. Both halves unit by
  // unit.
  Tensor backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                  UnitHooks& hooks) const;
  // The halves of the whole chunk apart, with the same bits; the stash is kept between them.
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                        UnitHooks& hooks) const;
  void backward_weight(Stream& stream, const Microbatch& microbatch, StageStash& stash, UnitHooks& hooks) const;

  const std::vector<Unit*>& units() const { return units_; }

 private:
  void recompute(Stream& stream, const Microbatch& microbatch, size_t unit, StageStash& stash) const;
  Tensor unit_backward_input(Stream& stream, const Microbatch& microbatch, size_t unit, const Tensor& dy,
                             StageStash& stash, UnitHooks& hooks) const;
  void unit_backward_weight(Stream& stream, const Microbatch& microbatch, size_t unit, StageStash& stash,
                            UnitHooks& hooks) const;

  std::vector<Unit*> units_;
  std::vector<RecomputeMode> recompute_;
  size_t first_unit_;
  // Of each unit, for traces: "forward blocks.3".
  std::vector<std::string> forward_names_;
  std::vector<std::string> backward_names_;
  std::vector<std::string> weight_names_;
};

}  // namespace trireme
