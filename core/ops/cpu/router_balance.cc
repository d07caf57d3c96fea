#include <cmath>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/cpu/router_rows.h"
#include "core/ops/router.h"

namespace trireme::cpu {

namespace {

using ops::Scoring;

// -Σ p ln p of a softmax.
TRIREME_MULTIVERSION
float softmax_entropy(const float* logits, const float* p, LogSumExp total, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const float log_p = (logits[i] - total.max) - total.log_sum;
    sum += p[i] > 0.0f ? p[i] * log_p : 0.0f;
  }
  return -sum;
}

// The same of p = scores · factor.
float entropy(const float* scores, float factor, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float p = scores[i] * factor;
    if (p > 0) sum += p * std::log(p);
  }
  return -sum;
}

TRIREME_MULTIVERSION
void add_scaled(const float* x, float factor, double* sum, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(x[i] * factor);
}

// Tokens of one stretch that are summed together; partial sums are then added in order.
struct Segment {
  int64_t begin;
  int64_t end;
  int64_t stretch;
};

std::vector<Segment> cut(int64_t tokens, const ops::TokenStretches& stretches) {
  const int64_t most = rows_per_block(tokens);
  std::vector<Segment> segments;
  for (int64_t begin = 0; begin < tokens;) {
    const int64_t stretch = (stretches.first_token + begin) / stretches.length;
    const int64_t left = stretches.length - (stretches.first_token + begin) % stretches.length;
    const int64_t end = begin + std::min({most, left, tokens - begin});
    segments.push_back({begin, end, stretch});
    begin = end;
  }
  return segments;
}

// What one segment adds; null: not made.
struct SegmentSums {
  int64_t* counts;
  double* probabilities;
  double* sums;
};

struct RouterRows {
  const float* logits;
  const float* scores;
  const int32_t* experts;
  int64_t choices;
  int64_t slots;
  Scoring scoring;
};

void sum_segment(const RouterRows& rows, const Segment& segment, const SegmentSums& out) {
  const int64_t choices = rows.choices;
  std::vector<float> room(static_cast<size_t>(choices));
  if (out.counts != nullptr) std::fill(out.counts, out.counts + choices, int64_t{0});
  if (out.probabilities != nullptr) std::fill(out.probabilities, out.probabilities + choices, 0.0);
  double squares = 0;
  double entropies = 0;
  for (int64_t r = segment.begin; r < segment.end; ++r) {
    const float* score = rows.scores + r * choices;
    const int32_t* chosen = rows.experts + r * rows.slots;
    if (out.counts != nullptr) {
      check_chosen(chosen, rows.slots, choices);
      for (int64_t k = 0; k < rows.slots; ++k) {
        if (chosen[k] >= 0) ++out.counts[chosen[k]];
      }
    }
    const bool softmax = rows.scoring == Scoring::softmax;
    const float factor = softmax ? 1.0f : 1.0f / sum_of_row(score, choices);
    if (out.probabilities != nullptr) add_scaled(score, factor, out.probabilities, choices);
    if (out.sums == nullptr) continue;
    const float* logit = rows.logits + r * choices;
    const LogSumExp total = log_sum_exp(logit, choices, room.data());
    squares += static_cast<double>(total.value()) * static_cast<double>(total.value());
    entropies +=
        static_cast<double>(softmax ? softmax_entropy(logit, score, total, choices) : entropy(score, factor, choices));
  }
  if (out.sums != nullptr) {
    out.sums[0] = squares;
    out.sums[1] = entropies;
  }
}

}  // namespace

void router_statistics(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring,
                       const Tensor& experts, const ops::TokenStretches& stretches, Tensor& counts,
                       Tensor& probabilities, Tensor& sums) {
  const int64_t choices = scores.dim(1);
  const bool counted = counts.defined();
  const RouterRows rows{.logits = logits.data<float>(),
                        .scores = scores.data<float>(),
                        .experts = counted ? experts.data<int32_t>() : nullptr,
                        .choices = choices,
                        .slots = counted ? experts.dim(1) : 0,
                        .scoring = scoring};
  const std::vector<Segment> segments = cut(scores.dim(0), stretches);
  const auto num_segments = static_cast<int64_t>(segments.size());
  const auto room = [&](bool made, int64_t columns, DType dtype) {
    return Tensor::empty(stream, {made ? num_segments : 0, columns}, dtype, MemoryTag::workspace);
  };
  const Tensor part_counts = room(counted, choices, DType::i64);
  const Tensor part_probabilities = room(probabilities.defined(), choices, DType::f64);
  const Tensor part_sums = room(sums.defined(), 2, DType::f64);
  const auto part = [&](int64_t i) {
    return SegmentSums{counted ? part_counts.data<int64_t>() + i * choices : nullptr,
                       probabilities.defined() ? part_probabilities.data<double>() + i * choices : nullptr,
                       sums.defined() ? part_sums.data<double>() + i * 2 : nullptr};
  };
  stream.pool().run(num_segments, [&](int64_t i) { sum_segment(rows, segments[static_cast<size_t>(i)], part(i)); });
  for (int64_t i = 0; i < num_segments; ++i) {
    const SegmentSums from = part(i);
    const int64_t row = segments[static_cast<size_t>(i)].stretch * choices;
    for (int64_t e = 0; e < choices && from.counts != nullptr; ++e) counts.data<int64_t>()[row + e] += from.counts[e];
    for (int64_t e = 0; e < choices && from.probabilities != nullptr; ++e) {
      probabilities.data<double>()[row + e] += from.probabilities[e];
    }
    for (int64_t j = 0; j < 2 && from.sums != nullptr; ++j) sums.data<double>()[j] += from.sums[j];
  }
}

void balance_loss(Stream&, const Tensor& counts, const Tensor& probabilities, const Tensor& emphasis, double factor,
                  Tensor& gradient, Tensor& loss) {
  const int64_t choices = probabilities.dim(1);
  const int64_t* count = counts.data<int64_t>();
  const double* probability = probabilities.data<double>();
  const float* weight = emphasis.defined() ? emphasis.data<float>() : nullptr;
  float* by_p = gradient.data<float>();
  double sum = 0;
  for (int64_t s = 0; s < probabilities.dim(0); ++s) {
    const int64_t row = counts.dim(0) == 1 ? 0 : s * choices;
    for (int64_t e = 0; e < choices; ++e) {
      const double slope =
          factor * (weight != nullptr ? static_cast<double>(weight[e]) : 1.0) * static_cast<double>(count[row + e]);
      by_p[s * choices + e] = static_cast<float>(slope);
      sum += slope * probability[s * choices + e];
    }
  }
  *loss.data<double>() += sum;
}

void update_balance_bias(Stream&, const Tensor& counts, float rate, const Tensor& non_finite, Tensor& bias) {
  if (*non_finite.data<int32_t>() != 0) return;
  const int64_t choices = counts.numel();
  const int64_t* count = counts.data<int64_t>();
  float* out = bias.data<float>();
  int64_t total = 0;
  for (int64_t e = 0; e < choices; ++e) total += count[e];
  for (int64_t e = 0; e < choices; ++e) {
    const int64_t lack = total - choices * count[e];
    if (lack != 0) out[e] += lack > 0 ? rate : -rate;
  }
}

}  // namespace trireme::cpu
