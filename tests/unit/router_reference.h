// Routers in fp64, as the tests of their ops compare them with, and choices to try them on.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/ops/router.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {

inline constexpr ops::Scoring kScorings[] = {ops::Scoring::softmax, ops::Scoring::sigmoid};

class RouterOpTest : public OpTest {
 protected:
  Tensor scores_of(const Tensor& logits, ops::Scoring scoring) {
    Tensor scores = unset(DType::f32, logits.shape());
    ops::router_scores(stream(), logits, scoring, scores);
    return scores;
  }
};

inline double log_sum_exp(const double* x, int64_t n) {
  const double max = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - max);
  return max + std::log(sum);
}

inline Values reference_scores(const Values& logits, int64_t choices, ops::Scoring scoring) {
  Values scores;
  for (size_t i = 0; i < logits.size(); ++i) {
    const size_t row = i - i % static_cast<size_t>(choices);
    scores.push_back(scoring == ops::Scoring::softmax ? std::exp(logits[i] - log_sum_exp(&logits[row], choices))
                                                      : 1 / (1 + std::exp(-logits[i])));
  }
  return scores;
}

inline Values reference_weights(const Values& scores, int64_t choices, const std::vector<int32_t>& experts,
                                int64_t slots, const ops::WeightRule& rule) {
  Values weights(experts.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 0) continue;
    const size_t row = i / static_cast<size_t>(slots);
    const auto score = [&](size_t k) {
      const int32_t e = experts[k];
      return e < 0 ? 0.0 : scores[row * static_cast<size_t>(choices) + static_cast<size_t>(e)];
    };
    double divisor = 1;
    if (rule.normalize) {
      divisor = 1e-20;
      for (size_t k = 0; k < static_cast<size_t>(slots); ++k) divisor += score(row * static_cast<size_t>(slots) + k);
    }
    weights[i] = static_cast<double>(rule.scaling) * score(i) / divisor;
  }
  return weights;
}

// Rows of scores divided by their sums.
inline Values probabilities_of(Values scores, int64_t choices) {
  for (size_t row = 0; row < scores.size(); row += static_cast<size_t>(choices)) {
    const auto begin = scores.begin() + static_cast<int64_t>(row);
    const double sum = std::accumulate(begin, begin + choices, 0.0);
    for (auto s = begin; s < begin + choices; ++s) *s /= sum;
  }
  return scores;
}

// Choices of tokens, all different in a token but for its last slot, which may repeat; every fifth slot is empty.
inline std::vector<int32_t> some_choices(int64_t tokens, int64_t choices, int64_t slots) {
  const std::vector<int32_t> first = uniform_ids(tokens, choices, "first");
  std::vector<int32_t> experts;
  for (int64_t i = 0; i < tokens * slots; ++i) {
    const auto e = static_cast<int32_t>((first[static_cast<size_t>(i / slots)] + 3 * (i % slots)) % choices);
    experts.push_back(i % 5 == 4 ? -1 : e);
  }
  return experts;
}

struct RouterStatistics {
  Values counts;
  Values probabilities;
  Values sums;
};

inline RouterStatistics reference_statistics(const Values& logits, const Values& scores, int64_t choices,
                                             const std::vector<int32_t>& experts, int64_t slots,
                                             const ops::TokenStretches& stretches, int64_t num_stretches) {
  const auto size = static_cast<size_t>(num_stretches * choices);
  RouterStatistics out{Values(size), Values(size), Values(2)};
  const Values p = probabilities_of(scores, choices);
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 0) continue;
    const int64_t stretch = (stretches.first_token + static_cast<int64_t>(i) / slots) / stretches.length;
    out.counts[static_cast<size_t>(stretch * choices + experts[i])] += 1;
  }
  for (size_t i = 0; i < p.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / choices;
    const int64_t stretch = (stretches.first_token + row) / stretches.length;
    out.probabilities[static_cast<size_t>(stretch * choices + static_cast<int64_t>(i) % choices)] += p[i];
    if (p[i] > 0) out.sums[1] -= p[i] * std::log(p[i]);
    if (static_cast<int64_t>(i) % choices != 0) continue;
    const double lse = log_sum_exp(&logits[i], choices);
    out.sums[0] += lse * lse;
  }
  return out;
}

}  // namespace trireme::testing
