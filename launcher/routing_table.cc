#include "launcher/routing_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/ops/elementwise.h"

namespace trireme {

static std::string scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", value);
  return text;
}

RoutingTable::RoutingTable(const Config& config, int64_t steps, int64_t layers)
    : layers_(layers),
      tokens_(config.batch.global * config.data.sequence_length),
      choices_(static_cast<size_t>(steps * layers_ * tokens_)) {}

void RoutingTable::record(int64_t step, int64_t layer, int64_t token, std::vector<int32_t> chosen, double gap) {
  std::sort(chosen.begin(), chosen.end());
  choices_[static_cast<size_t>((step * layers_ + layer) * tokens_ + token)] = {std::move(chosen), gap};
}

RoutingTable::Difference RoutingTable::compare(const RoutingTable& reference) const {
  TRIREME_CHECK(choices_.size() == reference.choices_.size());
  Difference difference;
  for (size_t first = 0; first < choices_.size(); first += static_cast<size_t>(tokens_)) {
    int64_t count = 0;
    double gap = 0;
    for (size_t i = first; i < first + static_cast<size_t>(tokens_); ++i) {
      if (choices_[i].experts == reference.choices_[i].experts) continue;
      ++count;
      gap = std::max(gap, reference.choices_[i].gap);
    }
    if (count == 0) continue;
    const int64_t layer = static_cast<int64_t>(first) / tokens_;
    difference.found = true;
    difference.step = layer / layers_;
    difference.near_tie = gap < kNearTie;
    difference.text = std::to_string(count) + " tokens chose other experts than on one rank, first in step " +
                      std::to_string(difference.step + 1) + ", layer " + std::to_string(layer % layers_) +
                      " of those with experts; their scores differ by up to " + scientific(gap);
    return difference;
  }
  return difference;
}

void RoutingRecorder::saw(Stream& stream, int64_t layer, const Microbatch& microbatch, int64_t first_row,
                          const Tensor& scores, const Tensor& bias, const Tensor& experts) {
  const int64_t rows = scores.dim(0);
  const int64_t num_choices = scores.dim(1);
  const int64_t slots = experts.dim(1);
  std::vector<float> score(static_cast<size_t>(rows * num_choices));
  std::vector<float> added(static_cast<size_t>(num_choices), 0.0f);
  std::vector<int32_t> chosen(static_cast<size_t>(rows * slots));
  ops::copy_to_host(stream, scores, score.data());
  ops::copy_to_host(stream, experts, chosen.data());
  if (bias.defined()) ops::copy_to_host(stream, bias, added.data());
  stream.synchronize();
  for (size_t i = 0; i < score.size(); ++i) score[i] += added[i % added.size()];
  // Microbatch j of data rank d begins with sequence (j·DP + d)·micro of the step.
  const int64_t before = (microbatch.num_so_far - 1) * mesh_.data_degree() + mesh_.data_rank();
  const int64_t first = before * microbatch.num_tokens() + first_row;
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<int32_t> of_token(chosen.begin() + r * slots, chosen.begin() + (r + 1) * slots);
    double least = gap(score.data() + r * num_choices, of_token);
    if (couples_) least = std::min(least, gap_to_others(score, chosen, r, rows));
    table_.record(step_, layer, first + r, of_token, least);
  }
}

// An expert e that only one of two tokens got: their scores for it; and what an exchange of e and e' between them would lose.
double RoutingRecorder::gap_to_others(const std::vector<float>& scores, const std::vector<int32_t>& chosen, int64_t row,
                                      int64_t rows) const {
  const int64_t n = experts_.num_choices();
  const int64_t slots = std::ssize(chosen) / rows;
  const auto score = [&](int64_t r, int32_t e) { return static_cast<double>(scores[static_cast<size_t>(r * n + e)]); };
  const auto has = [&](int64_t r, int32_t e) {
    return std::find(chosen.begin() + r * slots, chosen.begin() + (r + 1) * slots, e) !=
           chosen.begin() + (r + 1) * slots;
  };
  double least = INFINITY;
  for (int64_t other = 0; other < rows; ++other) {
    for (int32_t e = 0; e < n; ++e) {
      if (has(row, e) == has(other, e)) continue;
      least = std::min(least, std::abs(score(row, e) - score(other, e)));
      for (int32_t f = 0; f < n; ++f) {
        if (has(row, f) == has(row, e) || has(other, f) == has(other, e)) continue;
        least = std::min(least, std::abs(score(row, e) - score(row, f) - score(other, e) + score(other, f)));
      }
    }
  }
  return least;
}

double RoutingRecorder::gap(const float* scores, const std::vector<int32_t>& chosen) const {
  double least = INFINITY;
  const int64_t n = experts_.num_choices();
  for (const int32_t a : chosen) {
    if (a < 0) continue;
    for (int64_t b = 0; b < n; ++b) {
      if (std::find(chosen.begin(), chosen.end(), b) != chosen.end()) continue;
      least = std::min(least, static_cast<double>(std::abs(scores[a] - scores[b])));
    }
  }
  if (experts_.num_groups == 1) return least;
  std::vector<double> groups;
  const int64_t size = n / experts_.num_groups;
  for (int64_t g = 0; g < experts_.num_groups; ++g) {
    std::vector<float> members(scores + g * size, scores + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    const bool two = experts_.group_score == GroupScore::sum_of_best_two && members.size() > 1;
    const double score = members[0] + (two ? members[1] : 0.0f);
    for (const double other : groups) least = std::min(least, std::abs(score - other));
    groups.push_back(score);
  }
  return least;
}

}  // namespace trireme
