#include "core/ops/router.h"

#include <cmath>
#include <functional>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/cpu/router_rows.h"
#include "core/ops/math.h"
#include "core/ops/router_keys.h"

namespace trireme::cpu {

namespace {

using ops::BestTwo;
using ops::Scoring;

TRIREME_MULTIVERSION
void scale_row(float* y, float factor, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

TRIREME_MULTIVERSION
void sigmoids(const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::sigmoid(x[i]).value;
}

TRIREME_MULTIVERSION
float dot_of_rows(const float* x, const float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// What the choices of a group, whose scores these are, are worth together.
float score_of_group(const float* value, int64_t members, ops::GroupScoring kind) {
  BestTwo best{-INFINITY, -INFINITY};
  for (int64_t i = 0; i < members; ++i) ops::offer(best, value[i]);
  return kind == ops::GroupScoring::best || members < 2 ? best.first : best.first + best.second;
}

// One token's choices; `value` [E] is what they are chosen by, `keys` and `groups` are room.
void choose(const float* value, int64_t choices, const ops::TopKRule& rule, std::vector<uint64_t>& groups,
            std::vector<uint64_t>& keys, int32_t* experts) {
  const int64_t members = choices / rule.num_groups;
  keys.clear();
  const auto add_group = [&](int64_t group) {
    for (int64_t e = group * members; e < (group + 1) * members; ++e) keys.push_back(ops::choice_key(value[e], e));
  };
  if (rule.groups_per_token == rule.num_groups) {
    for (int64_t g = 0; g < rule.num_groups; ++g) add_group(g);
  } else {
    groups.clear();
    for (int64_t g = 0; g < rule.num_groups; ++g) {
      groups.push_back(ops::choice_key(score_of_group(value + g * members, members, rule.group_score), g));
    }
    std::partial_sort(groups.begin(), groups.begin() + rule.groups_per_token, groups.end(), std::greater<>());
    for (int64_t i = 0; i < rule.groups_per_token; ++i) add_group(ops::index_of_key(groups[static_cast<size_t>(i)]));
  }
  std::partial_sort(keys.begin(), keys.begin() + rule.top_k, keys.end(), std::greater<>());
  for (int64_t k = 0; k < rule.top_k; ++k) experts[k] = ops::index_of_key(keys[static_cast<size_t>(k)]);
}

// Σ of the scores that a token has chosen + 1e-20, or 1 where weights are not divided by that.
float divisor_of(const float* score, const int32_t* chosen, int64_t slots, bool normalize) {
  if (!normalize) return 1.0f;
  float sum = 0;
  for (int64_t k = 0; k < slots; ++k) {
    if (chosen[k] >= 0) sum += score[chosen[k]];
  }
  return sum + 1e-20f;
}

// The gradient of one token's scores.
struct ScoreGradient {
  const int32_t* chosen;
  const float* dweights;
  int64_t slots;
  const float* balance;  // by p, or null
};

TRIREME_MULTIVERSION
void add_balance(const float* by_p, float mean, float factor, float* gradient, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) gradient[i] += (by_p[i] - mean) * factor;
}

// In fp64: weights that are divided by their sum depend on differences of scores alone, and where one is near 1, what
// is left of its gradient would be the rounding of fp32.
void add_weight_gradient(const float* score, const ops::WeightRule& rule, const ScoreGradient& by, float* gradient) {
  double inverse = 1;
  double mean = 0;
  if (rule.normalize) {
    double sum = 1e-20;
    for (int64_t k = 0; k < by.slots; ++k) {
      if (by.chosen[k] < 0) continue;
      const double s = static_cast<double>(score[by.chosen[k]]);
      sum += s;
      mean += static_cast<double>(by.dweights[k]) * s;
    }
    inverse = 1 / sum;
    mean *= inverse;
  }
  const double factor = static_cast<double>(rule.scaling) * inverse;
  for (int64_t k = 0; k < by.slots; ++k) {
    if (by.chosen[k] < 0) continue;
    gradient[by.chosen[k]] += static_cast<float>((static_cast<double>(by.dweights[k]) - mean) * factor);
  }
}

void score_gradient(const float* score, int64_t choices, Scoring scoring, const ops::WeightRule& rule,
                    const ScoreGradient& by, float* gradient) {
  std::fill(gradient, gradient + choices, 0.0f);
  add_weight_gradient(score, rule, by, gradient);
  if (by.balance == nullptr) return;
  if (scoring == Scoring::softmax) return add_balance(by.balance, 0.0f, 1.0f, gradient, choices);
  const float factor = 1.0f / sum_of_row(score, choices);
  add_balance(by.balance, dot_of_rows(by.balance, score, choices) * factor, factor, gradient, choices);
}

// d = the gradient of the logits from that of softmax scores, with `z` = 2 · z_scale · logsumexp.
TRIREME_MULTIVERSION
void softmax_backward(const float* score, const float* gradient, float mean, float z, float* d, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = score[i] * ((gradient[i] - mean) + z);
}

TRIREME_MULTIVERSION
void sigmoid_backward(const float* logits, const float* gradient, float* d, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const math::Sigmoid<float> s = math::sigmoid(logits[i]);
    d[i] = gradient[i] * (s.value * s.complement);
  }
}

TRIREME_MULTIVERSION
void add_softmax(const float* logits, LogSumExp total, float factor, float* d, int64_t n) {
  const float scale = factor * std::exp(-total.log_sum);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = std::fma(math::exp_of_nonpositive(logits[i] - total.max), scale, d[i]);
}

// f(begin, end) on pieces of the rows of [rows, columns].
template <class F>
void for_row_pieces(Stream& stream, const Tensor& matrix, const F& f) {
  stream.pool().for_ranges(matrix.dim(0), rows_per_piece(matrix.dim(1)), f);
}

}  // namespace

void router_scores(Stream& stream, const Tensor& logits, Scoring scoring, Tensor& scores) {
  const int64_t choices = logits.dim(1);
  const float* x = logits.data<float>();
  float* y = scores.data<float>();
  if (choices == 0) return;
  for_row_pieces(stream, logits, [&](int64_t begin, int64_t end) {
    if (scoring == Scoring::sigmoid) return sigmoids(x + begin * choices, y + begin * choices, (end - begin) * choices);
    for (int64_t r = begin; r < end; ++r) {
      const float* row = x + r * choices;
      const float sum = exponentials(row, max_of(row, choices), y + r * choices, choices);
      scale_row(y + r * choices, 1.0f / sum, choices);
    }
  });
}

void choose_top_k(Stream& stream, const Tensor& scores, const Tensor& bias, const ops::TopKRule& rule,
                  Tensor& experts) {
  const int64_t choices = scores.dim(1);
  const float* score = scores.data<float>();
  const float* added = bias.defined() ? bias.data<float>() : nullptr;
  int32_t* out = experts.data<int32_t>();
  for_row_pieces(stream, scores, [&](int64_t begin, int64_t end) {
    std::vector<float> biased(static_cast<size_t>(choices));
    std::vector<uint64_t> groups;
    std::vector<uint64_t> keys;
    for (int64_t r = begin; r < end; ++r) {
      const float* value = score + r * choices;
      if (added != nullptr) {
        for (int64_t e = 0; e < choices; ++e) biased[static_cast<size_t>(e)] = value[e] + added[e];
        value = biased.data();
      }
      choose(value, choices, rule, groups, keys, out + r * rule.top_k);
    }
  });
}

void route_weights(Stream& stream, const Tensor& scores, const Tensor& experts, const ops::WeightRule& rule,
                   Tensor& weights) {
  const int64_t choices = scores.dim(1);
  const int64_t slots = experts.dim(1);
  const float* score = scores.data<float>();
  const int32_t* expert = experts.data<int32_t>();
  float* weight = weights.data<float>();
  for_row_pieces(stream, experts, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = score + r * choices;
      const int32_t* chosen = expert + r * slots;
      check_chosen(chosen, slots, choices);
      const float divisor = divisor_of(row, chosen, slots, rule.normalize);
      for (int64_t k = 0; k < slots; ++k) {
        weight[r * slots + k] = chosen[k] >= 0 ? rule.scaling * (row[chosen[k]] / divisor) : 0.0f;
      }
    }
  });
}

void router_backward(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring, const Tensor& experts,
                     const ops::WeightRule& rule, const Tensor& dweights, const Tensor& balance_gradient,
                     const ops::TokenStretches& stretches, float z_scale, Tensor& dlogits) {
  const int64_t choices = scores.dim(1);
  const int64_t slots = experts.dim(1);
  const float* logit = logits.data<float>();
  const float* score = scores.data<float>();
  const int32_t* expert = experts.data<int32_t>();
  const float* dweight = dweights.data<float>();
  const float* balance = balance_gradient.defined() ? balance_gradient.data<float>() : nullptr;
  float* out = dlogits.data<float>();
  for_row_pieces(stream, logits, [&](int64_t begin, int64_t end) {
    std::vector<float> gradient(static_cast<size_t>(choices));
    for (int64_t r = begin; r < end; ++r) {
      const float* x = logit + r * choices;
      const float* s = score + r * choices;
      float* d = out + r * choices;
      check_chosen(expert + r * slots, slots, choices);
      const int64_t stretch = (stretches.first_token + r) / stretches.length;
      score_gradient(
          s, choices, scoring, rule,
          {expert + r * slots, dweight + r * slots, slots, balance != nullptr ? balance + stretch * choices : nullptr},
          gradient.data());
      LogSumExp total{};
      float z = 0;
      if (z_scale != 0.0f) {
        total = log_sum_exp(x, choices, d);
        z = 2.0f * z_scale * total.value();
      }
      if (scoring == Scoring::softmax) {
        softmax_backward(s, gradient.data(), dot_of_rows(s, gradient.data(), choices), z, d, choices);
      } else {
        sigmoid_backward(x, gradient.data(), d, choices);
        if (z_scale != 0.0f) add_softmax(x, total, z, d, choices);
      }
    }
  });
}

}  // namespace trireme::cpu
