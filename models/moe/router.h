// The router of one layer: logits = W·x, scores, the choice of K experts for each token, their weights; and the losses that
// keep experts evenly loaded. All in fp32, whatever the model computes in.
//
// With a gating residual (carried_logits.h) logits = W·x + W^g · the logits of the router before.
//
// With p the scores of a token divided by their sum, f_e the share of slots that chose e, P_e the mean of p_e, η_e = 1, but τ
// (moe.constant_share) where e is one of MoE++'s experts that compute next to nothing:
//   balance loss  coef · E · Σ_e η_e · f_e · P_e   over a sequence, a microbatch, or with f of the global batch so far
//   z-loss        coef · mean(logsumexp(logits)²)
// Each is averaged over the microbatches of the global batch and enters the gradient only. No gradient passes f.
// (Shazeer et al. 2017; Fedus et al. 2021, "Switch Transformers"; Zoph et al. 2022, "ST-MoE"; DeepSeek-V3 for sequences)
//
// Weights are those of what a token wanted: where an expert was full, the others keep theirs. BASE weighs by sigmoid(logit),
// Switch and expert choice by the score itself, hash by 1/K, whatever the configuration says for top-k; the router's matrix
// of a hash layer has no gradient.
//
// What was decided stays in the stash also where the layer is computed again (Stash::put_always): a token keeps its experts.
#pragma once

#include <string>

#include "core/ops/router.h"
#include "models/layers.h"
#include "models/moe/chooser.h"
#include "models/moe/setup.h"
#include "models/moe/stats.h"

namespace trireme {

struct RouterNames {
  std::string weight;      // without ".weight"
  std::string score_bias;  // the whole name
  std::string residual;    // without ".weight"
};

// Of this rank's n rows.
struct Routing {
  Tensor experts;  // i32 [n, K], -1: nothing
  Tensor weights;  // f32 [n, K]
  Tensor logits;   // f32 [n, E]
};

class Router {
 public:
  // `layer`: among the model's layers with experts.
  Router(const ModelConfig& config, const RouterNames& names, int64_t layer, const MoeSetup& setup);

  void list_weights(std::vector<Weight*>& list);

  // x [n, C]: rows of the microbatch's tokens as `rows` cuts them. `before` f32 [n, E]: the logits of the router before,
  // where the model has gating residuals and there is one.
  Routing route(Stream& stream, const Microbatch& microbatch, const Tensor& x, const Tensor& before,
                Stash& stash) const;
  // The gradient of x [n, C], of x's dtype, from that of the weights f32 [n, K] and of the losses, and from what the
  // router behind adds to that of the logits, `dlogits_behind` f32 [n, E] or undefined. With a gating residual `dbefore`
  // becomes the gradient of `before`.
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dweights,
                        const Tensor& dlogits_behind, DType dtype, Tensor& dbefore, Stash& stash) const;
  void backward_weight(Stream& stream, const Tensor& x, Stash& stash);
  // K of what was routed.
  int64_t slots(const Stash& stash) const;

 private:
  Chosen decide(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
                Stash& stash) const;
  Tensor balance(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
                 const Tensor& chosen) const;
  Tensor emphasis(Stream& stream) const;
  void count(Stream& stream, const Microbatch& microbatch, const Tensor& logits, const Tensor& scores,
             const Chosen& chosen) const;
  ops::TokenStretches stretches(const Microbatch& microbatch) const;

  ExpertsConfig experts_;
  MoeConfig moe_;
  TensorGroup rows_;
  Communicator* data_;
  MoeStats* stats_;
  int64_t layer_;
  ops::Scoring scoring_;
  ops::WeightRule rule_;
  bool weighs_evenly_ = false;  // hash
  std::unique_ptr<Chooser> chooser_;
  Weight weight_;  // f32 [E, C]
  Weight bias_;    // f32 [E], or none
  Weight residual_;  // f32 [E, E], or none
};

}  // namespace trireme
