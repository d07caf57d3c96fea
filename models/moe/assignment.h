// Choices of experts that couple the tokens of one microbatch, and those that need no router at all.
//
// N tokens in order, E experts (of MoE++: choices), K slots of a token. scores f32 [N, E] are row-major, and so are the
// results, experts i32 [N, K], -1: nothing. Pure functions over host memory: ranks that have the same scores decide alike.
// Of equal scores the lower token wins, then the lower expert. NaN counts as the lowest score, so that broken numbers give
// some valid choice and are reported where losses are looked at. N = 0 is allowed everywhere.
// Thread safety: yes, there is no state. For the balanced choice of BASE see balanced_assignment.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/config/config.h"

namespace trireme {

// f32 [num_tokens, num_experts] in memory of others.
struct ScoreTable {
  std::span<const float> values;
  int64_t num_tokens = 0;
  int64_t num_experts = 0;

  std::span<const float> row(int64_t token) const {
    return values.subspan(static_cast<size_t>(token * num_experts), static_cast<size_t>(num_experts));
  }
  float at(int64_t token, int64_t expert) const { return values[static_cast<size_t>(token * num_experts + expert)]; }
};

// How many pairs an expert takes: ceil(factor · K · N / E), with K = 1 and E = all experts of Switch (Fedus et al. 2021,
// "Switch Transformers", eq. 3) and the paper's 2N/E for K = 2 of GShard (Lepikhin et al. 2020). A quotient within 1e-9 of a
// whole number counts as that, for a factor such as 1.1 isn't exact in binary.
int64_t expert_capacity(double factor, int64_t top_k, int64_t num_tokens, int64_t num_experts);

// The same for each choice of MoE++ (Jin et al. 2024, eq. 8), with a smaller share for the experts that compute:
//   real expert: ceil(factor · τ·K·N / (τ·num_real + num_others)),   other: ceil(factor · K·N / (τ·num_real + num_others))
// i64 [num_real + num_others], the real ones first. With τ = 1, or without others, all are as above.
std::vector<int64_t> expert_capacities(double factor, int64_t top_k, int64_t num_tokens, int64_t num_real,
                                       int64_t num_others, double share);

// Experts that were chosen too often lose pairs, which become -1; returns how many. capacities i64 [E]. What stays:
//   probability   of each expert, the `capacity` pairs of the greatest scores[token, expert];
//   position      in GShard's order: first choices of all tokens, then second ones, each in the order of tokens; Switch's
//                 order with K = 1.
// A token that lost all its choices passes the layer by its residual connection alone; nobody else takes it.
int64_t drop_over_capacity(DropPolicy policy, std::span<const int64_t> capacities, const ScoreTable& scores,
                           int64_t top_k, std::span<int32_t> experts);

// Expert choice (Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing"): S = softmax(X·W), G, I = TopK(Sᵀ, c):
// every expert takes the `capacity` = factor·K·N/E tokens that score highest for it (all, if there are fewer), so loads are
// even, and tokens have from 0 to E experts. The routing weight of a pair is its score, not normalized.
// experts [N, E]: those of a token in ascending order, then -1. Returns how many slots the busiest token uses.
// A token's choice depends on later tokens: it isn't causal.
int64_t choose_by_experts(const ScoreTable& scores, int64_t capacity, std::span<int32_t> experts);

// Hash layers (Roller et al. 2021, "Hash Layers For Large Sparse Models"): the token's id alone decides, by a table that is
// fixed before training; h = FFN_{hash(id)}(x) with weight 1, and 1/K each for K experts. There is no router to train.
//
// The table of K distinct experts for each id, i32 [vocab_size, K], as `key` shuffles them. It is the paper's balanced
// variant with all ids equally frequent: in every slot, experts get numbers of ids that differ by one at most.
// REQUIRES: 1 <= top_k <= num_experts.
std::vector<int32_t> make_hash_table(uint64_t key, int64_t vocab_size, int64_t num_experts, int64_t top_k);
// experts [N, K] = the rows of the ids. REQUIRES: ids are in [0, vocab_size).
void choose_by_hash(std::span<const int32_t> table, int64_t top_k, std::span<const int32_t> ids,
                    std::span<int32_t> experts);

}  // namespace trireme
