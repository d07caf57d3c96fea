#include "models/moe/moe_mlp.h"

#include <algorithm>

#include "core/ops/elementwise.h"
#include "core/ops/expert_rows.h"
#include "core/ops/linear.h"

namespace trireme {

namespace {

enum Slot : int {
  kGateLogits,  // g·x f32 [n, 1]
  kGate,        // their sigmoid
  kShared,      // shared(x), with a gate
  // Between the two halves of backward:
  kGradGate,
};

// Stashes in that of the layer; those of chunks follow.
enum Part : size_t { kRouter, kSharedPart, kLight, kFirstChunk };

// In the stash of a chunk: its plan, and the stash of the experts as a part.
constexpr int kPlan = 0;
constexpr size_t kExperts = 0;

}  // namespace

MoeMlp::MoeMlp(const ModelConfig& config, const ParameterNames& names, int64_t moe_layer, const MoeSetup& setup,
               bool gate_residual)
    : tensor_(setup.tensor),
      rows_(setup.tensor.cut_along_tokens()),
      router_(config, {names.router, names.score_bias, gate_residual ? names.gate_residual : ""}, moe_layer, setup),
      experts_(
          config, [&](int64_t e) { return names.expert(e); }, setup),
      light_(config, names),
      dispatcher_(make_dispatcher(setup, config.experts.num_experts)),
      num_chunks_(setup.config.dispatch_chunks) {
  if (config.experts.shared_ffn_size == 0) return;
  shared_ = std::make_unique<Mlp>(config, names.shared, config.experts.shared_ffn_size, setup.tensor);
  if (!config.experts.shared_gate) return;
  Parameter gate = make_matrix(names.shared_gate, 1, config.hidden_size, config.initializer_range);
  shared_gate_ = Weight(setup.tensor.sequence() ? partial_over_tensor(std::move(gate)) : std::move(gate));
}

void MoeMlp::list_weights(std::vector<Weight*>& list) {
  router_.list_weights(list);
  if (shared_) shared_->list_weights(list);
  if (shared_gate_) list.push_back(&shared_gate_);
  light_.list_weights(list);
  experts_.list_weights(list);
}

std::vector<MoeMlp::Chunk> MoeMlp::chunks(const Microbatch& microbatch) const {
  const int64_t num_tokens = microbatch.num_tokens();
  const int64_t own = rows_.num_rows(num_tokens);
  const int64_t most = rows_.rows_per_rank(num_tokens);
  const int64_t n = std::clamp<int64_t>(num_chunks_, 1, most);
  std::vector<Chunk> list;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = most * i / n;
    const int64_t end = most * (i + 1) / n;
    list.push_back({std::min(begin, own), std::min(end, own), end - begin});
  }
  return list;
}

Tensor MoeMlp::own_rows(const Tensor& x, const Microbatch& microbatch) const {
  if (tensor_.sequence() || tensor_.size() == 1) return x;
  const int64_t first = first_own_row(microbatch);
  return x.slice(first, first + rows_.num_rows(microbatch.num_tokens()));
}

int64_t MoeMlp::first_own_row(const Microbatch& microbatch) const {
  return tensor_.sequence() ? 0 : rows_.first_row(microbatch.num_tokens());
}

Tensor MoeMlp::all_rows(Stream& stream, const Tensor& rows, const Microbatch& microbatch) const {
  if (tensor_.sequence() || tensor_.size() == 1) return rows;
  return rows_.gather(stream, rows, microbatch.num_tokens());
}

Tensor MoeMlp::forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                       Stash& stash) {
  Tensor logits;
  return forward(stream, microbatch, normed, residual, /*before=*/{}, logits, stash);
}

Tensor MoeMlp::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) {
  Tensor dbefore;
  return backward_input(stream, microbatch, dy, /*dlogits=*/{}, dbefore, stash);
}

Tensor MoeMlp::forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                       const Tensor& before, Tensor& logits, Stash& stash) {
  const Tensor x = own_rows(normed, microbatch);
  const Routing routing = router_.route(stream, microbatch, x, before.defined() ? own_rows(before, microbatch) : before,
                                        stash.part(kRouter));
  logits = routing.logits;
  const int64_t slots = routing.experts.dim(1);
  struct Travel {
    DispatchPlan plan;
    Arriving rows, weights;
  };
  const std::vector<Chunk> list = chunks(microbatch);
  std::vector<Travel> there(list.size());
  std::vector<Arriving> back(list.size());
  const auto leave = [&](size_t i) {
    const Chunk& c = list[i];
    Travel& t = there[i];
    t.plan = dispatcher_->plan(stream, routing.experts.slice(c.begin, c.end), c.max_tokens);
    t.rows = dispatcher_->send(stream, t.plan, x.slice(c.begin, c.end), slots);
    const Tensor weights = routing.weights.slice(c.begin, c.end).view({(c.end - c.begin) * slots, 1});
    t.weights = dispatcher_->send(stream, t.plan, weights, /*slots=*/1);
  };
  leave(0);
  // A gate weighs what the shared experts give, not the residual.
  const bool shared_adds = shared_ && !shared_gate_;
  Tensor shared;
  if (shared_) {
    shared = shared_->forward(stream, microbatch, normed, shared_adds ? residual : Tensor{}, stash.part(kSharedPart));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (i + 1 < list.size()) leave(i + 1);
    Travel& t = there[i];
    const Tensor rows = dispatcher_->receive(stream, t.plan, std::move(t.rows));
    const Tensor weights = dispatcher_->receive(stream, t.plan, std::move(t.weights));
    Stash& kept = stash.part(kFirstChunk + i);
    const Tensor out = experts_.forward(stream, rows, weights, t.plan.offsets(), kept.part(kExperts));
    back[i] = dispatcher_->send_back(stream, t.plan, out, slots);
    t.plan.put(kept, kPlan);
  }
  Tensor own = Tensor::empty(stream, x.shape(), x.dtype());
  for (size_t i = 0; i < list.size(); ++i) {
    Tensor y = own.slice(list[i].begin, list[i].end);
    dispatcher_->sum(stream, there[i].plan, std::move(back[i]), y);
  }
  if (light_) light_.forward(stream, x, routing.experts, routing.weights, own, stash.part(kLight));
  Tensor y = all_rows(stream, own, microbatch);
  if (shared_) add_shared(stream, normed, shared, y, stash);
  if (residual.defined() && !shared_adds) ops::add(stream, y, residual, y);
  return y;
}

// y += shared, weighed by its gate where there is one.
void MoeMlp::add_shared(Stream& stream, const Tensor& normed, const Tensor& shared, Tensor& y, Stash& stash) const {
  if (!shared_gate_) return ops::add(stream, y, shared, y);
  Tensor logits = Tensor::empty(stream, {normed.dim(0), 1}, DType::f32);
  ops::linear_forward(stream, normed, shared_gate_.value, Tensor{}, logits);
  Tensor gate = Tensor::empty(stream, logits.shape(), DType::f32);
  ops::router_scores(stream, logits, ops::Scoring::sigmoid, gate);
  ops::add_scaled_rows(stream, shared, gate.view({gate.dim(0)}), y);
  stash.put(kGateLogits, logits);
  stash.put(kGate, gate);
  stash.put(kShared, shared);
}

// The gradient of `normed` through the shared experts.
Tensor MoeMlp::shared_backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) const {
  if (!shared_gate_) return shared_->backward_input(stream, microbatch, dy, stash.part(kSharedPart));
  const Tensor gate = stash.take(kGate);
  const int64_t n = gate.dim(0);
  Tensor dgate = Tensor::empty(stream, {n, 1}, DType::f32);
  Tensor flat = dgate.view({n});
  ops::row_dots(stream, dy, stash.take(kShared), flat);
  // The gate is a router with one expert: dlogits = dgate · gate · (1 − gate).
  Tensor chosen = Tensor::empty(stream, {n, 1}, DType::i32);
  ops::fill(stream, chosen, 0);
  Tensor dlogits = Tensor::empty(stream, {n, 1}, DType::f32);
  ops::router_backward(stream, stash.take(kGateLogits), gate, ops::Scoring::sigmoid, chosen,
                       {.normalize = false, .scaling = 1.0f}, dgate, /*balance_gradient=*/{}, {}, /*z_scale=*/0,
                       dlogits);
  dlogits = in_dtype(stream, dlogits, dy.dtype());
  stash.put(kGradGate, dlogits);

  Tensor dshared = Tensor::empty(stream, dy.shape(), dy.dtype());
  ops::fill(stream, dshared, 0);
  ops::add_scaled_rows(stream, dy, gate.view({n}), dshared);
  Tensor dx = shared_->backward_input(stream, microbatch, dshared, stash.part(kSharedPart));
  ops::linear_backward_input(stream, dlogits, shared_gate_.value, dx, /*accumulate=*/true);
  return dx;
}

void MoeMlp::drop_recomputable(Stash& stash) {
  if (shared_) shared_->drop_recomputable(stash.part(kSharedPart));
  for (size_t i = kFirstChunk; i < stash.num_parts(); ++i) experts_.drop_recomputable(stash.part(i).part(kExperts));
}

void MoeMlp::recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  if (shared_) shared_->recompute(stream, microbatch, stash.part(kSharedPart));
  for (size_t i = kFirstChunk; i < stash.num_parts(); ++i) experts_.recompute(stream, stash.part(i).part(kExperts));
}

Tensor MoeMlp::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, const Tensor& dlogits,
                              Tensor& dbefore, Stash& stash) {
  const Tensor own_dy = own_rows(dy, microbatch);
  const std::vector<Chunk> list = chunks(microbatch);
  const int64_t slots = router_.slots(stash.part(kRouter));
  struct Travel {
    DispatchPlan plan;
    Arriving there, back, weights_back;
  };
  std::vector<Travel> travels(list.size());
  const auto leave = [&](size_t i) {
    Travel& t = travels[i];
    t.plan = DispatchPlan::get(stash.part(kFirstChunk + i), kPlan);
    t.there = dispatcher_->send(stream, t.plan, own_dy.slice(list[i].begin, list[i].end), slots);
  };
  leave(0);
  Tensor shared_dx;
  if (shared_) shared_dx = shared_backward(stream, microbatch, dy, stash);
  for (size_t i = 0; i < list.size(); ++i) {
    if (i + 1 < list.size()) leave(i + 1);
    Travel& t = travels[i];
    const Tensor rows = dispatcher_->receive(stream, t.plan, std::move(t.there));
    Tensor dweights;
    const Tensor dx =
        experts_.backward_input(stream, rows, t.plan.offsets(), dweights, stash.part(kFirstChunk + i).part(kExperts));
    t.back = dispatcher_->send_back(stream, t.plan, dx, slots);
    t.weights_back = dispatcher_->send_back(stream, t.plan, dweights, /*slots=*/1);
  }
  Tensor dx = Tensor::empty(stream, own_dy.shape(), own_dy.dtype());
  Tensor dweights = Tensor::empty(stream, {own_dy.dim(0), slots}, DType::f32);
  for (size_t i = 0; i < list.size(); ++i) {
    Travel& t = travels[i];
    const Chunk& c = list[i];
    Tensor dx_rows = dx.slice(c.begin, c.end);
    Tensor pairs = dweights.slice(c.begin, c.end).view({(c.end - c.begin) * slots, 1});
    dispatcher_->sum(stream, t.plan, std::move(t.back), dx_rows);
    dispatcher_->sum(stream, t.plan, std::move(t.weights_back), pairs);
  }
  if (light_) light_.backward_input(stream, own_dy, dx, dweights, stash.part(kLight));
  const Tensor router_dx =
      router_.backward_input(stream, microbatch, dweights, dlogits.defined() ? own_rows(dlogits, microbatch) : dlogits,
                             dx.dtype(), dbefore, stash.part(kRouter));
  ops::add(stream, dx, router_dx, dx);
  dx = all_rows(stream, dx, microbatch);
  if (shared_) ops::add(stream, dx, shared_dx, dx);
  return dx;
}

void MoeMlp::backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) {
  router_.backward_weight(stream, own_rows(normed, microbatch), stash.part(kRouter));
  if (light_) light_.backward_weight(stream, own_rows(normed, microbatch), stash.part(kLight));
  bool accumulate = experts_.accumulate_gradients();
  for (size_t i = kFirstChunk; i < stash.num_parts(); ++i) {
    Stash& kept = stash.part(i);
    const DispatchPlan plan = DispatchPlan::get(kept, kPlan);
    experts_.backward_weight(stream, plan.offsets(), kept.part(kExperts), accumulate);
    accumulate = true;
  }
  if (!shared_) return;
  if (shared_gate_) {
    Tensor no_bias;
    ops::linear_backward_weight(stream, stash.take(kGradGate), normed, shared_gate_.gradient, no_bias,
                                shared_gate_.accumulate_gradient());
  }
  shared_->backward_weight(stream, microbatch, std::move(normed), stash.part(kSharedPart));
}

}  // namespace trireme
