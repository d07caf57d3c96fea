#include "models/moe/router.h"

#include <algorithm>

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

enum Slot : int {
  kLogits,   // f32 [n, E]
  kScores,   // f32 [n, E]
  kExperts,  // i32 [n, K], always kept
  kWanted,   // likewise, before experts were full
  kBalance,  // gradient of the balance loss by p, f32 [S, E], always kept
  kBefore,   // f32 [n, E], with a gating residual
  // Between the two halves of backward:
  kGradLogits,
};

}  // namespace

Router::Router(const ModelConfig& config, const RouterNames& names, int64_t layer, const MoeSetup& setup)
    : experts_(config.experts),
      moe_(setup.config),
      rows_(setup.tensor.cut_along_tokens()),
      data_(setup.data),
      stats_(setup.stats),
      layer_(layer),
      scoring_(config.experts.scoring == RouterScoring::softmax ? ops::Scoring::softmax : ops::Scoring::sigmoid),
      rule_{.normalize = config.experts.normalize, .scaling = static_cast<float>(config.experts.scaling)},
      chooser_(make_chooser(setup.config, config, layer)) {
  if (moe_.router != MoeRouter::topk) rule_ = {.normalize = false, .scaling = 1.0f};
  if (moe_.router == MoeRouter::base) scoring_ = ops::Scoring::sigmoid;
  weighs_evenly_ = moe_.router == MoeRouter::hash;
  const int64_t num_choices = experts_.num_choices();
  Parameter weight = make_matrix(names.weight, num_choices, config.hidden_size, config.initializer_range);
  weight.full_precision = true;
  weight_ = Weight(partial_over_tensor(std::move(weight)));
  if (!names.residual.empty()) {
    Parameter residual = make_matrix(names.residual, num_choices, num_choices, config.initializer_range);
    residual.full_precision = true;
    residual_ = Weight(partial_over_tensor(std::move(residual)));
  }
  if (experts_.score_bias) bias_ = Weight(make_buffer(names.score_bias, num_choices));
}

void Router::list_weights(std::vector<Weight*>& list) {
  list.push_back(&weight_);
  if (residual_) list.push_back(&residual_);
  if (bias_) list.push_back(&bias_);
}

ops::TokenStretches Router::stretches(const Microbatch& microbatch) const {
  const int64_t num_tokens = microbatch.num_tokens();
  const bool by_sequence = moe_.aux_scope == AuxScope::sequence;
  return {rows_.first_row(num_tokens), by_sequence ? microbatch.sequence : num_tokens};
}

Routing Router::route(Stream& stream, const Microbatch& microbatch, const Tensor& x, const Tensor& before,
                      Stash& stash) const {
  Tensor logits = Tensor::empty(stream, {x.dim(0), experts_.num_choices()}, DType::f32);
  ops::linear_forward(stream, in_dtype(stream, x, DType::f32), weight_.value, Tensor{}, logits);
  if (residual_) {
    ops::linear_add_forward(stream, before, residual_.value, Tensor{}, logits, logits);
    stash.put(kBefore, before);
  }
  Tensor scores = Tensor::empty(stream, logits.shape(), DType::f32);
  ops::router_scores(stream, logits, scoring_, scores);
  const Chosen chosen = stash.has(kExperts) ? Chosen{stash.get(kExperts), stash.get(kWanted)}
                                            : decide(stream, microbatch, logits, scores, stash);
  Routing routing{chosen.experts, Tensor::empty(stream, chosen.experts.shape(), DType::f32), logits};
  if (weighs_evenly_) {
    ops::fill(stream, routing.weights, 1.0 / static_cast<double>(chosen.experts.dim(1)));
  } else {
    ops::route_weights(stream, scores, chosen.wanted, rule_, routing.weights);
  }
  stash.put(kLogits, logits);
  stash.put(kScores, scores);
  return routing;
}

// The first time that the microbatch comes here.
Chosen Router::decide(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
                      Stash& stash) const {
  const Chosen chosen = chooser_->choose(stream, {microbatch, rows_, logits, scores, bias_.value});
  stash.put_always(kExperts, chosen.experts);
  stash.put_always(kWanted, chosen.wanted);
  if (!microbatch.with_gradients) return chosen;
  if (stats_ != nullptr) count(stream, microbatch, logits, scores, chosen);
  if (moe_.balance == MoeBalance::aux && moe_.aux_loss_coef.value_or(0) > 0) {
    stash.put_always(kBalance, balance(stream, microbatch, logits, scores, chosen.wanted));
  }
  return chosen;
}

void Router::count(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
                   const Chosen& chosen) const {
  if (stats_->watch() != nullptr) {
    const Tensor& decided_by = moe_.router == MoeRouter::base ? logits : scores;
    stats_->watch()->saw(stream, layer_, microbatch, rows_.first_row(microbatch.num_tokens()), decided_by, bias_.value,
                         chosen.experts);
  }
  Tensor counts = stats_->counts_of(layer_);
  Tensor sums = stats_->token_sums_of(layer_);
  Tensor none;
  ops::router_statistics(stream, logits, scores, scoring_, chosen.wanted, {0, std::max<int64_t>(1, logits.dim(0))},
                         counts, none, sums);
  stats_->add_dropped(layer_, chosen.num_dropped);
}

// How much of the balance loss each choice makes: MoE++'s experts that compute nothing τ. Undefined: all alike.
Tensor Router::emphasis(Stream& stream) const {
  const int64_t num_light = experts_.num_choices() - experts_.num_experts;
  if (num_light == 0) return {};
  Tensor emphasis = Tensor::empty(stream, {experts_.num_choices()}, DType::f32);
  Tensor real = emphasis.flat_slice(0, {experts_.num_experts});
  Tensor light = emphasis.flat_slice(experts_.num_experts, {num_light});
  ops::fill(stream, real, 1);
  ops::fill(stream, light, moe_.constant_share);
  return emphasis;
}

// What of the balance loss each p gets.
Tensor Router::balance(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
                       const Tensor& chosen) const {
  const int64_t num_choices = experts_.num_choices();
  const bool global = moe_.aux_scope == AuxScope::global;
  const int64_t num_stretches = moe_.aux_scope == AuxScope::sequence ? microbatch.batch : 1;
  const Shape shape{num_stretches, num_choices};
  Tensor probabilities = Tensor::empty(stream, shape, DType::f64);
  Tensor counts = Tensor::empty(stream, shape, DType::i64);
  ops::fill(stream, probabilities, 0);
  ops::fill(stream, counts, 0);
  Tensor none;
  ops::router_statistics(stream, logits, scores, scoring_, chosen, stretches(microbatch), counts, probabilities, none);
  const auto num_tokens = static_cast<double>(microbatch.num_tokens());
  double counted = num_tokens / static_cast<double>(num_stretches);  // tokens behind `counts`
  if (global) {
    TRIREME_CHECK(stats_ != nullptr);
    ops::copy(stream, stats_->counts_of(layer_), counts);
    counted = num_tokens * static_cast<double>(microbatch.data_degree * microbatch.num_so_far);
  }
  if (rows_.size() > 1) rows_.comm().all_reduce(counts, ReduceOp::sum, stream)->wait(stream);
  if (global && data_ != nullptr) data_->all_reduce(counts, ReduceOp::sum, stream)->wait(stream);

  // coef · E · mean over stretches of Σ_e (count / (K · counted)) · (probabilities / tokens of a stretch)
  const double factor = *moe_.aux_loss_coef * static_cast<double>(num_choices) * microbatch.share /
                        (static_cast<double>(chosen.dim(1)) * counted * num_tokens);
  Tensor gradient = Tensor::empty(stream, shape, DType::f32);
  Tensor loss = stats_ != nullptr ? stats_->balance_loss_of(layer_) : Tensor::empty(stream, {1}, DType::f64);
  ops::balance_loss(stream, counts, probabilities, emphasis(stream), factor, gradient, loss);
  return gradient;
}

int64_t Router::slots(const Stash& stash) const { return stash.get(kExperts).dim(1); }

Tensor Router::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dweights,
                              const Tensor& dlogits_behind, DType dtype, Tensor& dbefore, Stash& stash) const {
  const Tensor logits = stash.take(kLogits);
  Tensor dlogits = Tensor::empty(stream, logits.shape(), DType::f32);
  const Tensor balance_gradient = stash.has(kBalance) ? stash.take(kBalance) : Tensor{};
  const double z_scale = moe_.z_loss_coef * microbatch.share / static_cast<double>(microbatch.num_tokens());
  stash.drop(kExperts);
  Tensor dchosen = dweights;
  if (weighs_evenly_) {
    dchosen = Tensor::empty(stream, dweights.shape(), DType::f32);
    ops::fill(stream, dchosen, 0);
  }
  ops::router_backward(stream, logits, stash.take(kScores), scoring_, stash.take(kWanted), rule_, dchosen,
                       balance_gradient, stretches(microbatch), static_cast<float>(z_scale), dlogits);
  if (dlogits_behind.defined()) ops::add(stream, dlogits, dlogits_behind, dlogits);
  if (residual_) {
    dbefore = Tensor::empty(stream, dlogits.shape(), DType::f32);
    ops::linear_backward_input(stream, dlogits, residual_.value, dbefore, /*accumulate=*/false);
  }
  Tensor dx = Tensor::empty(stream, {dlogits.dim(0), weight_.value.dim(1)}, DType::f32);
  ops::linear_backward_input(stream, dlogits, weight_.value, dx, /*accumulate=*/false);
  stash.put(kGradLogits, dlogits);
  return in_dtype(stream, dx, dtype);
}

void Router::backward_weight(Stream& stream, const Tensor& x, Stash& stash) {
  const Tensor dlogits = stash.take(kGradLogits);
  Tensor no_bias;
  ops::linear_backward_weight(stream, dlogits, in_dtype(stream, x, DType::f32), weight_.gradient, no_bias,
                              weight_.accumulate_gradient());
  if (!residual_) return;
  ops::linear_backward_weight(stream, dlogits, stash.take(kBefore), residual_.gradient, no_bias,
                              residual_.accumulate_gradient());
}

}  // namespace trireme
