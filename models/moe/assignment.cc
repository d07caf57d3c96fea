#include "models/moe/assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/data/permutation.h"
#include "core/error.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

int64_t whole_above(double quotient) {
  const double nearest = std::round(quotient);
  if (std::abs(quotient - nearest) <= 1e-9 * std::max(1.0, nearest)) return static_cast<int64_t>(nearest);
  return static_cast<int64_t>(std::ceil(quotient));
}

// A pair or token with its score; the best first.
struct Ranked {
  float score;
  int64_t index;

  Ranked(float s, int64_t i) : score(std::isnan(s) ? -std::numeric_limits<float>::infinity() : s), index(i) {}
  bool operator<(const Ranked& other) const { return score != other.score ? score > other.score : index < other.index; }
};

// Leaves the best `count` at the front, in no order.
void select_best(std::vector<Ranked>& list, int64_t count) {
  if (count < static_cast<int64_t>(list.size())) std::nth_element(list.begin(), list.begin() + count, list.end());
}

int64_t drop_by_score(std::span<const int64_t> capacities, const ScoreTable& scores, int64_t top_k,
                      std::span<int32_t> experts) {
  std::vector<std::vector<Ranked>> pairs(capacities.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 0) continue;
    const auto pair = static_cast<int64_t>(i);
    pairs[static_cast<size_t>(experts[i])].emplace_back(scores.at(pair / top_k, experts[i]), pair);
  }
  int64_t dropped = 0;
  for (size_t e = 0; e < pairs.size(); ++e) {
    select_best(pairs[e], capacities[e]);
    for (size_t i = static_cast<size_t>(capacities[e]); i < pairs[e].size(); ++i) {
      experts[static_cast<size_t>(pairs[e][i].index)] = -1;
      ++dropped;
    }
  }
  return dropped;
}

int64_t drop_by_position(std::span<const int64_t> capacities, int64_t top_k, std::span<int32_t> experts) {
  std::vector<int64_t> taken(capacities.size(), 0);
  int64_t dropped = 0;
  const auto slots = static_cast<size_t>(top_k);
  for (size_t slot = 0; slot < slots; ++slot) {
    for (size_t i = slot; i < experts.size(); i += slots) {
      if (experts[i] < 0) continue;
      const auto e = static_cast<size_t>(experts[i]);
      if (taken[e] < capacities[e]) {
        ++taken[e];
      } else {
        experts[i] = -1;
        ++dropped;
      }
    }
  }
  return dropped;
}

}  // namespace

int64_t expert_capacity(double factor, int64_t top_k, int64_t num_tokens, int64_t num_experts) {
  return whole_above(factor * static_cast<double>(top_k * num_tokens) / static_cast<double>(num_experts));
}

std::vector<int64_t> expert_capacities(double factor, int64_t top_k, int64_t num_tokens, int64_t num_real,
                                       int64_t num_others, double share) {
  const double weight = num_others == 0 ? 1.0 : share;
  const double unit = factor * static_cast<double>(top_k * num_tokens) /
                      (weight * static_cast<double>(num_real) + static_cast<double>(num_others));
  std::vector<int64_t> capacities(static_cast<size_t>(num_real), whole_above(weight * unit));
  capacities.resize(static_cast<size_t>(num_real + num_others), whole_above(unit));
  return capacities;
}

int64_t drop_over_capacity(DropPolicy policy, std::span<const int64_t> capacities, const ScoreTable& scores,
                           int64_t top_k, std::span<int32_t> experts) {
  TRIREME_CHECK(static_cast<int64_t>(experts.size()) == scores.num_tokens * top_k);
  TRIREME_CHECK(static_cast<int64_t>(capacities.size()) == scores.num_experts);
  return policy == DropPolicy::probability ? drop_by_score(capacities, scores, top_k, experts)
                                           : drop_by_position(capacities, top_k, experts);
}

int64_t choose_by_experts(const ScoreTable& scores, int64_t capacity, std::span<int32_t> experts) {
  const int64_t num_tokens = scores.num_tokens;
  const int64_t num_experts = scores.num_experts;
  TRIREME_CHECK(static_cast<int64_t>(experts.size()) == num_tokens * num_experts);
  const int64_t taken = std::min(capacity, num_tokens);
  std::fill(experts.begin(), experts.end(), -1);
  std::vector<int64_t> used(static_cast<size_t>(num_tokens), 0);
  std::vector<Ranked> column;
  column.reserve(static_cast<size_t>(num_tokens));
  for (int64_t e = 0; e < num_experts; ++e) {
    column.clear();
    for (int64_t t = 0; t < num_tokens; ++t) column.emplace_back(scores.at(t, e), t);
    select_best(column, taken);
    for (int64_t i = 0; i < taken; ++i) {
      const int64_t token = column[static_cast<size_t>(i)].index;
      int64_t& slot = used[static_cast<size_t>(token)];
      experts[static_cast<size_t>(token * num_experts + slot)] = static_cast<int32_t>(e);
      ++slot;
    }
  }
  return used.empty() ? 0 : *std::max_element(used.begin(), used.end());
}

// Ids are shuffled, and each E neighbours in the new order are one group: their first choices are all E experts, and
// another choice is the first one moved by an offset that the group shares, which again gives all E.
std::vector<int32_t> make_hash_table(uint64_t key, int64_t vocab_size, int64_t num_experts, int64_t top_k) {
  TRIREME_CHECK(vocab_size >= 1 && top_k >= 1 && top_k <= num_experts);
  std::vector<int32_t> table(static_cast<size_t>(vocab_size * top_k));
  const PhiloxBlock keys = philox4x32(key, /*counter=*/0, /*stream=*/0);
  const Permutation order(vocab_size, (uint64_t{keys.x[1]} << 32) | keys.x[0]);
  const uint64_t offset_key = (uint64_t{keys.x[3]} << 32) | keys.x[2];
  std::vector<int64_t> offsets(static_cast<size_t>(num_experts));
  std::vector<int64_t> id_at(static_cast<size_t>(vocab_size));
  for (int64_t id = 0; id < vocab_size; ++id) id_at[static_cast<size_t>(order(id))] = id;
  for (int64_t place = 0; place < vocab_size; ++place) {
    const int64_t group = place / num_experts;
    if (place % num_experts == 0) {
      // The first K of a shuffle of all offsets but 0, which stays in front.
      for (int64_t i = 0; i < num_experts; ++i) offsets[static_cast<size_t>(i)] = i;
      for (int64_t k = 1; k < top_k; ++k) {
        const auto draw = static_cast<uint64_t>(group * top_k + k);
        const auto rest = static_cast<uint64_t>(num_experts - k);
        std::swap(offsets[static_cast<size_t>(k)],
                  offsets[static_cast<size_t>(k) + static_cast<size_t>(uniform_below(offset_key, draw, rest))]);
      }
    }
    int32_t* row = &table[static_cast<size_t>(id_at[static_cast<size_t>(place)] * top_k)];
    for (int64_t k = 0; k < top_k; ++k) {
      row[k] = static_cast<int32_t>((place + offsets[static_cast<size_t>(k)]) % num_experts);
    }
  }
  return table;
}

void choose_by_hash(std::span<const int32_t> table, int64_t top_k, std::span<const int32_t> ids,
                    std::span<int32_t> experts) {
  const auto slots = static_cast<size_t>(top_k);
  TRIREME_CHECK(experts.size() == ids.size() * slots);
  for (size_t i = 0; i < ids.size(); ++i) {
    TRIREME_CHECK(ids[i] >= 0 && static_cast<size_t>(ids[i]) < table.size() / slots);
    const std::span<const int32_t> row = table.subspan(static_cast<size_t>(ids[i]) * slots, slots);
    std::copy(row.begin(), row.end(), experts.begin() + static_cast<int64_t>(i * slots));
  }
}

}  // namespace trireme
