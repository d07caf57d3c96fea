#include "models/moe/balanced_assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>

#include "core/random/philox.h"

namespace trireme {
namespace {

using Experts = std::vector<int32_t>;
constexpr double kTolerance = 1e-10;  // of the range; N · 2^-44 and the rounding of sums in fp64
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Scores {
  std::vector<float> values;
  int64_t num_tokens;
  int64_t num_experts;

  ScoreTable table() const { return {values, num_tokens, num_experts}; }
  double range() const {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return values.empty() ? 0 : static_cast<double>(*high) - *low;
  }
};

// The Hungarian method as textbooks have it, O(n³): for a square matrix of costs, the least sum of one cost for each row
// from different columns.
double least_cost(const std::vector<std::vector<double>>& cost) {
  const size_t n = cost.size();
  const double far = std::numeric_limits<double>::infinity();
  std::vector<double> u(n + 1, 0), v(n + 1, 0);
  std::vector<size_t> row_of(n + 1, 0), way(n + 1, 0);
  for (size_t i = 1; i <= n; ++i) {
    std::vector<double> slack(n + 1, far);
    std::vector<char> used(n + 1, 0);
    size_t column = 0;
    row_of[0] = i;
    do {
      used[column] = 1;
      const size_t row = row_of[column];
      size_t next = 0;
      double delta = far;
      for (size_t j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const double reduced = cost[row - 1][j - 1] - u[row] - v[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          way[j] = column;
        }
        if (slack[j] < delta) {
          delta = slack[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= n; ++j) {
        if (used[j]) {
          u[row_of[j]] += delta;
          v[j] -= delta;
        } else {
          slack[j] -= delta;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    while (column != 0) {
      row_of[column] = row_of[way[column]];
      column = way[column];
    }
  }
  double sum = 0;
  for (size_t j = 1; j <= n; ++j) sum += cost[row_of[j] - 1][j - 1];
  return sum;
}

// The greatest sum of scores with even loads. Columns are ceil(N/E) places of each expert, of which the last may stay empty
// where E doesn't divide N: rows behind the tokens fill those, and only those.
double best_sum(const Scores& scores) {
  const int64_t n = scores.num_tokens;
  const int64_t num_experts = scores.num_experts;
  const int64_t places = (n + num_experts - 1) / num_experts;
  const int64_t size = places * num_experts;
  const double forbidden = 1e3 * (1 + scores.range()) * static_cast<double>(size);
  std::vector<std::vector<double>> cost(static_cast<size_t>(size), std::vector<double>(static_cast<size_t>(size)));
  for (int64_t row = 0; row < size; ++row) {
    for (int64_t column = 0; column < size; ++column) {
      double& c = cost[static_cast<size_t>(row)][static_cast<size_t>(column)];
      if (row < n) {
        c = -static_cast<double>(scores.table().at(row, column / places));
      } else {
        c = column % places == places - 1 ? 0 : forbidden;
      }
    }
  }
  return -least_cost(cost);
}

double sum_of(const Scores& scores, const Experts& experts) {
  double sum = 0;
  for (size_t t = 0; t < experts.size(); ++t) sum += scores.table().at(static_cast<int64_t>(t), experts[t]);
  return sum;
}

Experts balanced(const Scores& scores) {
  Experts experts(static_cast<size_t>(scores.num_tokens), -2);
  assign_balanced(scores.table(), experts);
  return experts;
}

void expect_even(const Experts& experts, int64_t num_experts) {
  std::vector<int64_t> loads(static_cast<size_t>(num_experts), 0);
  for (const int32_t e : experts) {
    ASSERT_GE(e, 0);
    ASSERT_LT(e, num_experts);
    ++loads[static_cast<size_t>(e)];
  }
  const auto n = static_cast<int64_t>(experts.size());
  for (const int64_t load : loads) {
    EXPECT_GE(load, n / num_experts);
    EXPECT_LE(load, (n + num_experts - 1) / num_experts);
  }
}

enum class Kind { normal, skewed, few_values, alike, huge };

void PrintTo(Kind kind, std::ostream* out) {
  constexpr const char* kNames[] = {"normal", "skewed", "few_values", "alike", "huge"};
  *out << kNames[static_cast<size_t>(kind)];
}

Scores make_scores(Kind kind, uint64_t seed, int64_t num_tokens, int64_t num_experts) {
  Scores scores{{}, num_tokens, num_experts};
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t e = 0; e < num_experts; ++e) {
      const int64_t row = kind == Kind::alike ? t % 3 : t;  // three kinds of tokens
      double value = normal_at(seed, static_cast<uint64_t>(row * num_experts + e));
      if (kind == Kind::skewed) value += 3.0 * static_cast<double>(num_experts - e);
      if (kind == Kind::few_values) value = std::round(value);
      if (kind == Kind::huge) value = value * 1e30 + 1e32;
      scores.values.push_back(static_cast<float>(value));
    }
  }
  return scores;
}

class Balanced : public ::testing::TestWithParam<Kind> {};

TEST_P(Balanced, IsTheBestOfEvenLoads) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const int64_t num_experts = 1 + static_cast<int64_t>(uniform_below(seed, 0, 8));
    const int64_t num_tokens = 1 + static_cast<int64_t>(uniform_below(seed, 1, 48));
    const Scores scores = make_scores(GetParam(), seed, num_tokens, num_experts);
    const Experts experts = balanced(scores);
    expect_even(experts, num_experts);
    EXPECT_NEAR(sum_of(scores, experts), best_sum(scores), kTolerance * scores.range())
        << num_tokens << " tokens, " << num_experts << " experts, seed " << seed;
    EXPECT_EQ(balanced(scores), experts);
  }
}

// More experts, each with one place or none.
TEST_P(Balanced, IsTheBestOfFewTokens) {
  for (uint64_t seed = 100; seed < 110; ++seed) {
    const int64_t num_tokens = 1 + static_cast<int64_t>(uniform_below(seed, 1, 70));
    const Scores scores = make_scores(GetParam(), seed, num_tokens, 40);
    const Experts experts = balanced(scores);
    expect_even(experts, 40);
    EXPECT_NEAR(sum_of(scores, experts), best_sum(scores), kTolerance * scores.range())
        << num_tokens << " seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Scores, Balanced,
                         ::testing::Values(Kind::normal, Kind::skewed, Kind::few_values, Kind::alike, Kind::huge));

// No two tokens gain by changing places, and none by moving where there is room: necessary at any size.
TEST(Balanced, HasNoGainfulSwapsOfManyTokens) {
  const Scores scores = make_scores(Kind::skewed, 1, 1003, 32);
  const Experts experts = balanced(scores);
  expect_even(experts, 32);
  const auto loss = [&](size_t t, int32_t from, int32_t to) {
    const auto token = static_cast<int64_t>(t);
    return static_cast<double>(scores.table().at(token, from)) - scores.table().at(token, to);
  };
  for (size_t t = 0; t < experts.size(); ++t) {
    for (size_t u = 0; u < t; ++u) {
      ASSERT_GE(loss(t, experts[t], experts[u]) + loss(u, experts[u], experts[t]), -1e-9);
    }
  }
}

TEST(Balanced, LeavesTokensWhereTheBestIsEven) {
  const Scores scores{{1, 0, 0,  //
                       0, 0, 1,  //
                       0, 1, 0},
                      3,
                      3};
  EXPECT_EQ(balanced(scores), (Experts{0, 2, 1}));
}

// Both prefer expert 0, the first one by more.
TEST(Balanced, MovesTheTokenThatLosesLeast) {
  EXPECT_EQ(balanced({{9, 1, 5, 4}, 2, 2}), (Experts{0, 1}));
  EXPECT_EQ(balanced({{5, 4, 9, 1}, 2, 2}), (Experts{1, 0}));
}

// A hundred-millionth of the range decides between the last two.
TEST(Balanced, SeesSmallDifferencesBesideGreatOnes) {
  EXPECT_EQ(balanced({{1e7f, 0, 0, 1e7f, 1.1f, 0, 1.0f, 0}, 4, 2}), (Experts{0, 1, 0, 1}));
}

TEST(Balanced, HasEdges) {
  EXPECT_EQ(balanced({{}, 0, 4}), Experts{});
  EXPECT_EQ(balanced({{3, 1, 2}, 3, 1}), (Experts{0, 0, 0}));
  EXPECT_EQ(balanced({{0, 1, 5, 2}, 1, 4}), Experts{2});
  expect_even(balanced({std::vector<float>(70, 0.25f), 10, 7}), 7);
}

TEST(Balanced, SurvivesBrokenNumbers) {
  expect_even(balanced({std::vector<float>(24, kNan), 6, 4}), 4);
  EXPECT_EQ(balanced({{kNan, 1, 2, 0, kInfinity, kNan, -kInfinity, 3}, 4, 2}), (Experts{1, 0, 0, 1}));
}

TEST(Greedy, TakesTheBestAndTheLowerOfEquals) {
  const Scores scores{{1, 3, 2,     //
                       4, 4, 1,     //
                       0, 7, 7,     //
                       kNan, 1, 0,  //
                       kNan, kNan, kNan},
                      5,
                      3};
  Experts experts(5, -2);
  assign_greedily(scores.table(), experts);
  EXPECT_EQ(experts, (Experts{1, 0, 1, 1, 0}));
  Experts none;
  assign_greedily({{}, 0, 3}, none);
}

}  // namespace
}  // namespace trireme
