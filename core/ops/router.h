// Routers of mixture-of-experts layers: from logits to scores, to chosen experts, to their weights, and back.
//
// Everything is f32 and i32, whatever the model computes in: a rounded score would change the choice. n tokens, E choices of
// a router, K slots of a token. `experts` i32 [n, K] names what each slot has chosen, -1: nothing. A choice passes no
// gradient; weights do. n = 0 is allowed everywhere. Sums have the same bits whatever the number of threads.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

enum class Scoring : uint8_t { softmax, sigmoid };
enum class GroupScoring : uint8_t { best, sum_of_best_two };

struct TopKRule {
  int64_t top_k = 1;
  // The choices lie in `num_groups` equal groups of neighbours, of which the best `groups_per_token` are looked at; a
  // group's score is that of its best member, or of its best two together (DeepSeek-V2 and -V3).
  int64_t num_groups = 1;
  int64_t groups_per_token = 1;
  GroupScoring group_score = GroupScoring::best;
};

struct WeightRule {
  bool normalize = true;  // divided by the sum of the token's weights + 1e-20
  float scaling = 1.0f;   // and then multiplied
};

// Which row of a table with a row for each stretch of tokens belongs to token r of this call: (first_token + r) / length.
// A GPU takes the tokens of up to 65,535 stretches in a call.
struct TokenStretches {
  int64_t first_token = 0;
  int64_t length = 1;
};

// scores [n, E] = softmax of each row of logits [n, E], or sigmoid of each element.
void router_scores(Stream& stream, const Tensor& logits, Scoring scoring, Tensor& scores);

// experts [n, K]: of each token the K choices of the greatest score + bias, greatest first; of equal ones the lower number
// first, of equal groups likewise. bias f32 [E], or undefined. REQUIRES: K <= the choices in groups_per_token groups.
void choose_top_k(Stream& stream, const Tensor& scores, const Tensor& bias, const TopKRule& rule, Tensor& experts);

// weights f32 [n, K] of the chosen: their scores, by `rule`; 0 where nothing is chosen.
void route_weights(Stream& stream, const Tensor& scores, const Tensor& experts, const WeightRule& rule,
                   Tensor& weights);

// What balance losses and metrics need of n tokens. With p = the row of scores divided by its sum (softmax: itself):
//   counts[s, e] += how many slots of stretch s chose e;          i64 [S, E]
//   probabilities[s, e] += Σ p_e;                                 f64 [S, E]
//   sums[0] += Σ logsumexp(logits)², sums[1] += Σ -Σ_e p ln p     f64 [2]
// Each may be undefined, and then isn't made.
void router_statistics(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring,
                       const Tensor& experts, const TokenStretches& stretches, Tensor& counts, Tensor& probabilities,
                       Tensor& sums);

// The loss Σ_{s,e} factor · emphasis[e] · counts[s, e] · probabilities[s, e], which is added to loss f64 [1], and its
// gradient by each p: gradient[s, e] = factor · emphasis[e] · counts[s, e], f32 [S, E]. `probabilities` may be of this
// rank's tokens only while `counts` is of all: losses of ranks add up. counts i64 [S, E], or [1, E] for all s; emphasis
// f32 [E], or undefined: 1.
void balance_loss(Stream& stream, const Tensor& counts, const Tensor& probabilities, const Tensor& emphasis,
                  double factor, Tensor& gradient, Tensor& loss);

// dlogits [n, E] of what follows from the logits:
//   the weights, by dweights f32 [n, K];
//   the balance loss, by balance_gradient f32 [S, E], or undefined;
//   the z-loss z_scale · Σ_r logsumexp(logits_r)² (Zoph et al. 2022, "ST-MoE"), none with z_scale 0.
void router_backward(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring, const Tensor& experts,
                     const WeightRule& rule, const Tensor& dweights, const Tensor& balance_gradient,
                     const TokenStretches& stretches, float z_scale, Tensor& dlogits);

// Auxiliary-loss-free balance (Wang et al. 2024; DeepSeek-V3): bias[e] += rate · sign(mean of counts − counts[e]), sign(0)
// = 0, compared exactly in integers: sign(Σ counts − E · counts[e]). Nothing where non_finite i32 [1] isn't 0.
// counts i64 [E], bias f32 [E].
void update_balance_bias(Stream& stream, const Tensor& counts, float rate, const Tensor& non_finite, Tensor& bias);

}  // namespace trireme::ops
