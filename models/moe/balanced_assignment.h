// BASE (Lewis et al. 2021, "BASE Layers: Simplifying Training of Large, Sparse Models"): each token goes to one expert, all
// experts get the same number of tokens, and the sum of scores is as great as that allows.
//
//   maximize Σ_t scores[t, a_t]   subject to   floor(N/E) <= |{t: a_t = e}| <= ceil(N/E) for each e
//
// The paper's scores are logits x_t·w_e, and the output of token t is σ(x_t·w_{a_t}) · FFN_{a_t}(x_t): the sigmoid of the
// chosen logit is the routing weight, not normalized. Where E doesn't divide N, which experts get one token more is a part of
// the optimum.
//
// Scores are compared as whole numbers, rounded to 2^-44 of their range (the greatest minus the lowest of the call), and
// the sum of these is exactly the greatest; so the sum of the scores is within N · 2^-44 of the range of the best one: 1e-6
// of it up to ten million tokens. Equal inputs give equal results everywhere.
//
// The algorithm is a flow of least cost by successive shortest paths over the experts, not the paper's auction: an
// auction's bids end only as near to the optimum as its ε, and they take a time that grows with 1/ε where tokens resemble
// each other. Here every token starts at its best expert, and each one that is too many there is moved along the cheapest
// path of moves to an expert that lacks one. Time: (tokens to be moved) · E², at most N · E².
// NaN and -inf count as the lowest finite score, +inf as the greatest. Thread safety: yes, there is no state.
#pragma once

#include "models/moe/assignment.h"

namespace trireme {

// experts i32 [N].
void assign_balanced(const ScoreTable& scores, std::span<int32_t> experts);

// Each token's best expert, the lower one of equals: how BASE routes outside of training, where later tokens must not
// matter (Lewis et al., "Assignment During Testing"). NaN is the lowest. experts i32 [N].
void assign_greedily(const ScoreTable& scores, std::span<int32_t> experts);

}  // namespace trireme
