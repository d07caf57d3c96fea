#include "parallel/stage.h"

#include "core/trace/tracer.h"

namespace trireme {

StageRunner::StageRunner(std::vector<Unit*> units, std::vector<RecomputeMode> recompute, size_t first_unit)
    : units_(std::move(units)), recompute_(std::move(recompute)), first_unit_(first_unit) {
  TRIREME_CHECK(units_.size() == recompute_.size());
  for (const Unit* unit : units_) {
    forward_names_.push_back("forward " + unit->name());
    backward_names_.push_back("backward " + unit->name());
    weight_names_.push_back("weight " + unit->name());
  }
}

Tensor StageRunner::forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, StageStash& stash,
                            UnitHooks& hooks) const {
  const bool keep = microbatch.with_gradients;
  stash.units.clear();
  stash.inputs.assign(units_.size(), Tensor{});
  Tensor hidden = x;
  for (size_t i = 0; i < units_.size(); ++i) {
    const bool full = recompute_[i] == RecomputeMode::full;
    Stash& unit_stash = stash.units.emplace_back(!keep  ? Stash::Keep::nothing
                                                 : full ? Stash::Keep::decisions
                                                        : Stash::Keep::everything);
    if (keep && full) stash.inputs[i] = hidden;
    const TraceRange range(stream, forward_names_[i]);
    hooks.before_forward(first_unit_ + i, keep, stream);
    hidden = units_[i]->forward(stream, microbatch, hidden, unit_stash);
    if (recompute_[i] == RecomputeMode::selective) units_[i]->drop_recomputable(unit_stash);
    hooks.saw_output(first_unit_ + i, hidden);
    hooks.after_forward(first_unit_ + i, keep, stream);
  }
  return hidden;
}

void StageRunner::recompute(Stream& stream, const Microbatch& microbatch, size_t i, StageStash& stash) const {
  const TraceRange range(stream, "recompute");
  if (recompute_[i] == RecomputeMode::full) {
    stash.units[i].keep_everything();
    units_[i]->forward(stream, microbatch, stash.inputs[i], stash.units[i]);
    stash.inputs[i] = Tensor{};
  } else {
    units_[i]->recompute(stream, microbatch, stash.units[i]);
  }
}

Tensor StageRunner::unit_backward_input(Stream& stream, const Microbatch& microbatch, size_t i, const Tensor& dy,
                                        StageStash& stash, UnitHooks& hooks) const {
  hooks.before_backward(first_unit_ + i, stream);
  if (recompute_[i] != RecomputeMode::none) recompute(stream, microbatch, i, stash);
  Tensor dx;
  {
    const TraceRange range(stream, backward_names_[i]);
    dx = units_[i]->backward_input(stream, microbatch, dy, stash.units[i]);
  }
  hooks.after_backward_input(first_unit_ + i, stream);
  return dx;
}

void StageRunner::unit_backward_weight(Stream& stream, const Microbatch& microbatch, size_t i, StageStash& stash,
                                       UnitHooks& hooks) const {
  hooks.before_backward_weight(first_unit_ + i, stream);
  {
    const TraceRange range(stream, weight_names_[i]);
    units_[i]->backward_weight(stream, microbatch, stash.units[i]);
  }
  stash.units[i].clear();
  hooks.after_backward_weight(first_unit_ + i, stream);
}

Tensor StageRunner::backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                             UnitHooks& hooks) const {
  TRIREME_CHECK(stash.units.size() == units_.size(), "backward without a forward");
  Tensor gradient = dy;
  for (size_t i = units_.size(); i-- > 0;) {
    gradient = unit_backward_input(stream, microbatch, i, gradient, stash, hooks);
    unit_backward_weight(stream, microbatch, i, stash, hooks);
  }
  return gradient;
}

Tensor StageRunner::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, StageStash& stash,
                                   UnitHooks& hooks) const {
  TRIREME_CHECK(stash.units.size() == units_.size(), "backward without a forward");
  Tensor gradient = dy;
  for (size_t i = units_.size(); i-- > 0;) {
    gradient = unit_backward_input(stream, microbatch, i, gradient, stash, hooks);
  }
  return gradient;
}

void StageRunner::backward_weight(Stream& stream, const Microbatch& microbatch, StageStash& stash,
                                  UnitHooks& hooks) const {
  TRIREME_CHECK(stash.units.size() == units_.size(), "backward_weight without a backward_input");
  for (size_t i = units_.size(); i-- > 0;) unit_backward_weight(stream, microbatch, i, stash, hooks);
}

}  // namespace trireme
