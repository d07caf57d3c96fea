#include "parallel/stage.h"

namespace trireme {

StageRunner::StageRunner(std::vector<Unit*> units, std::vector<RecomputeMode> recompute)
    : units_(std::move(units)), recompute_(std::move(recompute)) {
  TRIREME_CHECK(units_.size() == recompute_.size());
}

Tensor StageRunner::forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, StageStash& stash) const {
  const bool keep = microbatch.with_gradients;
  stash.units.clear();
  stash.inputs.assign(units_.size(), Tensor{});
  Tensor hidden = x;
  for (size_t i = 0; i < units_.size(); ++i) {
    const bool full = recompute_[i] == RecomputeMode::full;
    Stash& unit_stash = stash.units.emplace_back(keep && !full);
    if (keep && full) stash.inputs[i] = hidden;
    hidden = units_[i]->forward(stream, microbatch, hidden, unit_stash);
    if (recompute_[i] == RecomputeMode::selective) units_[i]->drop_recomputable(unit_stash);
  }
  return hidden;
}

Tensor StageRunner::backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                             const std::function<void(size_t)>& unit_finished) const {
  TRIREME_CHECK(stash.units.size() == units_.size(), "backward without a forward");
  Tensor gradient = dy;
  for (size_t i = units_.size(); i-- > 0;) {
    if (recompute_[i] == RecomputeMode::full) {
      stash.units[i] = Stash(true);
      units_[i]->forward(stream, microbatch, stash.inputs[i], stash.units[i]);
      stash.inputs[i] = Tensor{};
    } else if (recompute_[i] == RecomputeMode::selective) {
      units_[i]->recompute(stream, microbatch, stash.units[i]);
    }
    gradient = units_[i]->backward_input(stream, microbatch, gradient, stash.units[i]);
    units_[i]->backward_weight(stream, microbatch, stash.units[i]);
    stash.units[i].clear();
    unit_finished(i);
  }
  return gradient;
}

}  // namespace trireme
