#include "models/moe/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "core/random/philox.h"

namespace trireme {
namespace {

using Experts = std::vector<int32_t>;
using Counts = std::vector<int64_t>;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Scores {
  std::vector<float> values;
  int64_t num_tokens;
  int64_t num_experts;

  ScoreTable table() const { return {values, num_tokens, num_experts}; }
};

// `levels` > 0: that many different values, so that many are equal.
Scores random_scores(uint64_t seed, int64_t num_tokens, int64_t num_experts, int levels = 0) {
  Scores scores{{}, num_tokens, num_experts};
  for (int64_t i = 0; i < num_tokens * num_experts; ++i) {
    const double value = normal_at(seed, static_cast<uint64_t>(i));
    scores.values.push_back(static_cast<float>(levels == 0 ? value : std::round(value * levels) / levels));
  }
  return scores;
}

// The K best of each token, best first.
Experts top_k_of(const Scores& scores, int64_t top_k) {
  Experts experts;
  for (int64_t t = 0; t < scores.num_tokens; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(scores.num_experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return scores.table().at(t, a) > scores.table().at(t, b); });
    experts.insert(experts.end(), order.begin(), order.begin() + top_k);
  }
  return experts;
}

Counts loads_of(const Experts& experts, int64_t num_experts) {
  Counts loads(static_cast<size_t>(num_experts), 0);
  for (const int32_t e : experts) {
    if (e >= 0) ++loads[static_cast<size_t>(e)];
  }
  return loads;
}

TEST(ExpertCapacity, IsTheSharesCeiling) {
  EXPECT_EQ(expert_capacity(1.0, 1, 16, 4), 4);
  EXPECT_EQ(expert_capacity(1.0, 2, 16, 4), 8);
  EXPECT_EQ(expert_capacity(1.0, 1, 17, 4), 5);
  EXPECT_EQ(expert_capacity(1.25, 1, 16, 4), 5);
  EXPECT_EQ(expert_capacity(1.25, 1, 17, 4), 6);  // 5.3125
  EXPECT_EQ(expert_capacity(2.0, 2, 1, 64), 1);
  EXPECT_EQ(expert_capacity(1.0, 2, 0, 8), 0);
  EXPECT_EQ(expert_capacity(3.0, 1, 10, 1), 30);
}

// 1.1 is a little more than 11/10 in binary, and yet 11/10 of 10 tokens are 11.
TEST(ExpertCapacity, DoesNotCountRoundingAsAToken) {
  for (int64_t tenths = 10; tenths < 40; ++tenths) {
    for (int64_t tokens = 1; tokens < 200; ++tokens) {
      for (const int64_t num_experts : {1, 3, 7}) {
        const int64_t expected = (tenths * tokens + 10 * num_experts - 1) / (10 * num_experts);
        ASSERT_EQ(expert_capacity(static_cast<double>(tenths) / 10, 1, tokens, num_experts), expected)
            << tenths << " " << tokens << " " << num_experts;
      }
    }
  }
}

TEST(ExpertCapacity, OfExpertsThatComputeNothingIsGreater) {
  // τ = 1/2: 4 real and 2 others share 64 pairs as 4 · 8 + 2 · 16.
  EXPECT_EQ(expert_capacities(1.0, 2, 32, 4, 2, 0.5), (Counts{8, 8, 8, 8, 16, 16}));
  EXPECT_EQ(expert_capacities(1.5, 2, 32, 4, 2, 0.5), (Counts{12, 12, 12, 12, 24, 24}));
  EXPECT_EQ(expert_capacities(1.0, 1, 30, 4, 2, 1.0), Counts(6, 5));
  EXPECT_EQ(expert_capacities(1.1, 2, 33, 4, 0, 0.5), Counts(4, expert_capacity(1.1, 2, 33, 4)));
}

TEST(Dropping, ByProbabilityKeepsTheBestOfEachExpert) {
  const Scores scores{{.9f, .1f,  //
                       .6f, .4f,  //
                       .8f, .2f,  //
                       .3f, .7f},
                      4,
                      2};
  Experts experts = {0, 0, 0, 1};
  EXPECT_EQ(drop_over_capacity(DropPolicy::probability, Counts{2, 2}, scores.table(), 1, experts), 1);
  EXPECT_EQ(experts, (Experts{0, -1, 0, 1}));
}

TEST(Dropping, ByPositionTakesFirstChoicesFirst) {
  const Scores scores = random_scores(1, 4, 3);
  // Expert 0 is the first choice of tokens 1 and 3, and a second one of 0 and 2.
  Experts experts = {1, 0,  //
                     0, 2,  //
                     2, 0,  //
                     0, 1};
  Experts three = experts;
  EXPECT_EQ(drop_over_capacity(DropPolicy::position, Counts{2, 2, 2}, scores.table(), 2, experts), 2);
  EXPECT_EQ(experts, (Experts{1, -1, 0, 2, 2, -1, 0, 1}));
  EXPECT_EQ(drop_over_capacity(DropPolicy::position, Counts{3, 1, 1}, scores.table(), 2, three), 3);
  EXPECT_EQ(three, (Experts{1, 0, 0, -1, 2, -1, 0, -1}));
}

// Switch: the tokens that come first stay.
TEST(Dropping, OfOneChoiceByPositionIsTheOrderOfTokens) {
  const Scores scores = random_scores(2, 6, 2);
  Experts experts = {1, 1, 0, 1, 0, 1};
  EXPECT_EQ(drop_over_capacity(DropPolicy::position, Counts{3, 3}, scores.table(), 1, experts), 1);
  EXPECT_EQ(experts, (Experts{1, 1, 0, 1, 0, -1}));
}

TEST(Dropping, OfEqualScoresTheLowerTokenStays) {
  const Scores scores{std::vector<float>(10, 0.5f), 5, 2};
  Experts experts = {1, 1, 1, 1, 1};
  EXPECT_EQ(drop_over_capacity(DropPolicy::probability, Counts{9, 2}, scores.table(), 1, experts), 3);
  EXPECT_EQ(experts, (Experts{1, 1, -1, -1, -1}));
}

// A pair stays exactly where fewer than `capacity` pairs of its expert are better.
TEST(Dropping, AgreesWithCountingWhoIsBetter) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const int64_t num_tokens = 1 + static_cast<int64_t>(uniform_below(seed, 0, 50));
    const int64_t num_experts = 2 + static_cast<int64_t>(uniform_below(seed, 1, 8));
    const int64_t top_k = 1 + static_cast<int64_t>(uniform_below(seed, 2, 2));
    const Scores scores = random_scores(seed, num_tokens, num_experts, seed % 2 == 0 ? 0 : 2);
    Counts capacities;
    for (int64_t e = 0; e < num_experts; ++e) {
      capacities.push_back(static_cast<int64_t>(uniform_below(seed, 10 + static_cast<uint64_t>(e), 20)));
    }
    const Experts chosen = top_k_of(scores, top_k);
    for (const DropPolicy policy : {DropPolicy::probability, DropPolicy::position}) {
      Experts kept = chosen;
      int64_t num_dropped = drop_over_capacity(policy, capacities, scores.table(), top_k, kept);
      for (int64_t t = 0; t < num_tokens; ++t) {
        for (int64_t k = 0; k < top_k; ++k) {
          const int32_t e = chosen[static_cast<size_t>(t * top_k + k)];
          int64_t better = 0;
          for (int64_t u = 0; u < num_tokens; ++u) {
            for (int64_t j = 0; j < top_k; ++j) {
              if (chosen[static_cast<size_t>(u * top_k + j)] != e) continue;
              const float mine = scores.table().at(t, e);
              const float other = scores.table().at(u, e);
              better += policy == DropPolicy::probability ? other > mine || (other == mine && u < t)
                                                          : j < k || (j == k && u < t);
            }
          }
          const bool stays = better < capacities[static_cast<size_t>(e)];
          ASSERT_EQ(kept[static_cast<size_t>(t * top_k + k)], stays ? e : -1) << "seed " << seed;
          num_dropped -= stays ? 0 : 1;
        }
      }
      EXPECT_EQ(num_dropped, 0);
    }
  }
}

TEST(Dropping, NeedsNoPairs) {
  Experts none;
  for (const DropPolicy policy : {DropPolicy::probability, DropPolicy::position}) {
    EXPECT_EQ(drop_over_capacity(policy, Counts{0, 0}, ScoreTable{{}, 0, 2}, 1, none), 0);
    const Scores scores = random_scores(3, 3, 2);
    Experts dropped = {-1, 1, -1, -1, 0, -1};
    const Experts before = dropped;
    EXPECT_EQ(drop_over_capacity(policy, Counts{6, 6}, scores.table(), 2, dropped), 0);
    EXPECT_EQ(dropped, before);
    EXPECT_EQ(drop_over_capacity(policy, Counts{0, 0}, scores.table(), 2, dropped), 2);
    EXPECT_EQ(dropped, Experts(6, -1));
  }
}

TEST(Dropping, TakesBrokenNumbersForTheWorst) {
  const Scores scores{{kNan, 1, kNan, 2, 3}, 5, 1};
  Experts experts(5, 0);
  EXPECT_EQ(drop_over_capacity(DropPolicy::probability, Counts{4}, scores.table(), 1, experts), 1);
  EXPECT_EQ(experts, (Experts{0, 0, -1, 0, 0}));
}

TEST(ExpertChoice, FollowsTheColumns) {
  const Scores scores{{.9f, .1f, .5f,  //
                       .8f, .7f, .5f,  //
                       .1f, .2f, .4f,  //
                       .3f, .6f, .1f},
                      4,
                      3};
  Experts experts(12);
  EXPECT_EQ(choose_by_experts(scores.table(), 2, experts), 3);
  EXPECT_EQ(experts, (Experts{0, 2, -1, 0, 1, 2, -1, -1, -1, 1, -1, -1}));
}

// Zhou et al.: every expert is exactly full, with tokens that none left outside beats.
TEST(ExpertChoice, FillsEveryExpertWithItsBest) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const int64_t num_tokens = 1 + static_cast<int64_t>(uniform_below(seed, 0, 60));
    const int64_t num_experts = 1 + static_cast<int64_t>(uniform_below(seed, 1, 9));
    const int64_t capacity = static_cast<int64_t>(uniform_below(seed, 2, 20));
    const Scores scores = random_scores(seed, num_tokens, num_experts, seed % 3 == 0 ? 2 : 0);
    Experts experts(static_cast<size_t>(num_tokens * num_experts));
    const int64_t used = choose_by_experts(scores.table(), capacity, experts);
    std::set<std::pair<int64_t, int64_t>> chosen;
    int64_t most = 0;
    for (int64_t t = 0; t < num_tokens; ++t) {
      const auto row = experts.begin() + t * num_experts;
      const auto end = std::find(row, row + num_experts, -1);
      EXPECT_TRUE(std::all_of(end, row + num_experts, [](int32_t e) { return e == -1; }));
      EXPECT_EQ(std::adjacent_find(row, end, std::greater_equal<>()), end);
      most = std::max<int64_t>(most, end - row);
      for (auto e = row; e != end; ++e) chosen.insert({*e, t});
    }
    EXPECT_EQ(used, most);
    for (int64_t e = 0; e < num_experts; ++e) {
      int64_t load = 0;
      for (int64_t t = 0; t < num_tokens; ++t) {
        int64_t better = 0;
        for (int64_t u = 0; u < num_tokens; ++u) {
          const float mine = scores.table().at(t, e);
          const float other = scores.table().at(u, e);
          better += other > mine || (other == mine && u < t);
        }
        ASSERT_EQ(chosen.count({e, t}), better < capacity ? 1 : 0);
        load += chosen.count({e, t}) > 0 ? 1 : 0;
      }
      EXPECT_EQ(load, std::min(capacity, num_tokens));
    }
  }
}

TEST(ExpertChoice, NeedsNoTokens) {
  Experts none;
  EXPECT_EQ(choose_by_experts({{}, 0, 4}, 3, none), 0);
}

TEST(Hash, GivesDistinctExpertsAndTheSameOnesAgain) {
  for (const int64_t top_k : {1, 2, 5}) {
    const Experts table = make_hash_table(7, 100, 5, top_k);
    EXPECT_EQ(table, make_hash_table(7, 100, 5, top_k));
    EXPECT_NE(table, make_hash_table(8, 100, 5, top_k));
    const Experts ids = {3, 99, 3, 0};
    Experts experts(ids.size() * static_cast<size_t>(top_k));
    choose_by_hash(table, top_k, ids, experts);
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto row = experts.begin() + static_cast<int64_t>(i) * top_k;
      EXPECT_TRUE(std::equal(row, row + top_k, table.begin() + ids[i] * top_k));
      EXPECT_EQ(std::set<int32_t>(row, row + top_k).size(), static_cast<size_t>(top_k));
    }
  }
  Experts none;
  choose_by_hash(make_hash_table(7, 1, 1, 1), 1, {}, none);
}

TEST(Hash, IsEvenInEverySlot) {
  for (const auto& [vocab, num_experts, top_k] : {std::tuple{1000, 8, 3}, {1003, 16, 2}, {5, 8, 2}, {50257, 64, 1}}) {
    const Experts table = make_hash_table(11, vocab, num_experts, top_k);
    for (int64_t k = 0; k < top_k; ++k) {
      Experts slot;
      for (int64_t id = 0; id < vocab; ++id) slot.push_back(table[static_cast<size_t>(id * top_k + k)]);
      const Counts loads = loads_of(slot, num_experts);
      const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
      EXPECT_LE(*most - *least, 1) << vocab << " " << num_experts << " slot " << k;
    }
  }
}

// What a random table has: neighbours are independent, all pairs of experts occur, and slots don't follow one another.
TEST(Hash, LooksRandom) {
  const int64_t vocab = 64000;
  const int64_t num_experts = 8;
  const Experts table = make_hash_table(5, vocab, num_experts, 2);
  std::map<std::pair<int32_t, int32_t>, int64_t> neighbours, slots;
  for (size_t id = 0; id + 1 < static_cast<size_t>(vocab); ++id) {
    ++neighbours[{table[2 * id], table[2 * id + 2]}];
    ++slots[{table[2 * id], table[2 * id + 1]}];
  }
  EXPECT_EQ(neighbours.size(), 64u);
  for (const auto& [pair, count] : neighbours) EXPECT_NEAR(static_cast<double>(count), 1000, 160);  // 5 σ
  EXPECT_EQ(slots.size(), 56u);                                                                     // distinct ones
  for (const auto& [pair, count] : slots) EXPECT_NEAR(static_cast<double>(count), 8000.0 / 7, 170);
}

}  // namespace
}  // namespace trireme
