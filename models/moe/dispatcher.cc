#include "models/moe/dispatcher.h"

namespace trireme {

void DispatchPlan::put(Stash& stash, int first) const {
  stash.put(first, order);
  stash.put(first + 1, position);
  stash.put(first + 2, counts);
  if (!arrange.defined()) return;
  stash.put(first + 3, arrange);
  stash.put(first + 4, restore);
}

DispatchPlan DispatchPlan::get(const Stash& stash, int first) {
  DispatchPlan plan;
  plan.order = stash.get(first);
  plan.position = stash.get(first + 1);
  plan.counts = stash.get(first + 2);
  if (stash.has(first + 3)) {
    plan.arrange = stash.get(first + 3);
    plan.restore = stash.get(first + 4);
  }
  return plan;
}

std::unique_ptr<Dispatcher> make_dispatcher(const MoeSetup& setup, int64_t num_experts) {
  return setup.config.dispatch == MoeDispatch::allgather && setup.dispatch != nullptr
             ? make_all_gather_dispatcher(setup, num_experts)
             : make_all_to_all_dispatcher(setup, num_experts);
}

}  // namespace trireme
