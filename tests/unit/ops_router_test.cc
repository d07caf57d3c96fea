#include "core/ops/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/ops/elementwise.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/router_reference.h"

namespace trireme::testing {
namespace {

using ops::GroupScoring;
using ops::Scoring;
using ops::TokenStretches;
using ops::TopKRule;
using ops::WeightRule;

// The choice of one token, by sorting.
std::vector<int32_t> reference_choice(const std::vector<float>& value, const TopKRule& rule) {
  const auto choices = static_cast<int64_t>(value.size());
  const int64_t members = choices / rule.num_groups;
  std::vector<float> of_group;
  for (int64_t g = 0; g < rule.num_groups; ++g) {
    std::vector<float> sorted(value.begin() + g * members, value.begin() + (g + 1) * members);
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const bool two = rule.group_score == GroupScoring::sum_of_best_two && members > 1;
    of_group.push_back(two ? sorted[0] + sorted[1] : sorted[0]);
  }
  const auto best = [](const std::vector<float>& by, std::vector<int32_t> of, int64_t count) {
    std::stable_sort(of.begin(), of.end(),
                     [&](int32_t a, int32_t b) { return by[static_cast<size_t>(a)] > by[static_cast<size_t>(b)]; });
    of.resize(static_cast<size_t>(count));
    return of;
  };
  std::vector<int32_t> all(static_cast<size_t>(rule.num_groups));
  std::iota(all.begin(), all.end(), 0);
  std::vector<int32_t> candidates;
  std::vector<int32_t> groups = best(of_group, all, rule.groups_per_token);
  std::sort(groups.begin(), groups.end());
  for (const int32_t g : groups) {
    for (int64_t i = 0; i < members; ++i) candidates.push_back(static_cast<int32_t>(g * members + i));
  }
  return best(value, candidates, rule.top_k);
}

class RouterTest : public RouterOpTest {
 protected:
  Values choose(const Tensor& scores, const Tensor& bias, const TopKRule& rule) {
    Tensor experts = unset(DType::i32, {scores.dim(0), rule.top_k});
    ops::choose_top_k(stream(), scores, bias, rule, experts);
    return read(experts);
  }
  void expect_choice(const Tensor& scores, const Tensor& bias, const TopKRule& rule, const std::string& what);
};

TEST_P(RouterTest, ScoresMatchReference) {
  for (const Scoring scoring : kScorings) {
    for (const Shape& shape : {Shape{1, 1}, Shape{5, 2}, Shape{7, 33}, Shape{130, 64}, Shape{3, 512}}) {
      const Tensor logits = normal(DType::f32, shape, "logits", 3.0);
      expect_close(read(scores_of(logits, scoring)), reference_scores(read(logits), shape[1], scoring),
                   tolerance(DType::f32, OpKind::reduction), shape.str());
    }
  }
}

void RouterTest::expect_choice(const Tensor& scores, const Tensor& bias, const TopKRule& rule,
                               const std::string& what) {
  const Values of_all = read(scores);
  const Values biases = bias.defined() ? read(bias) : Values(static_cast<size_t>(scores.dim(1)));
  Values want;
  for (size_t row = 0; row < of_all.size(); row += biases.size()) {
    std::vector<float> value;
    for (size_t e = 0; e < biases.size(); ++e) {
      value.push_back(static_cast<float>(of_all[row + e]) + static_cast<float>(biases[e]));
    }
    for (const int32_t e : reference_choice(value, rule)) want.push_back(e);
  }
  EXPECT_EQ(choose(scores, bias, rule), want) << what << ": " << rule.top_k << " of " << scores.dim(1) << " in "
                                              << rule.groups_per_token << " of " << rule.num_groups << " groups";
}

TEST_P(RouterTest, ChoosesTheGreatest) {
  struct Case {
    int64_t choices;
    TopKRule rule;
  };
  const std::vector<Case> cases = {
      {1, {.top_k = 1}},
      {2, {.top_k = 2}},
      {8, {.top_k = 2}},
      {70, {.top_k = 70}},
      {512, {.top_k = 9}},
      {12, {.top_k = 3, .num_groups = 4, .groups_per_token = 2}},
      {12, {.top_k = 6, .num_groups = 4, .groups_per_token = 2, .group_score = GroupScoring::sum_of_best_two}},
      {256, {.top_k = 8, .num_groups = 8, .groups_per_token = 4, .group_score = GroupScoring::sum_of_best_two}},
      {80, {.top_k = 2, .num_groups = 80, .groups_per_token = 40, .group_score = GroupScoring::sum_of_best_two}},
      {12, {.top_k = 4, .num_groups = 4, .groups_per_token = 4, .group_score = GroupScoring::sum_of_best_two}},
  };
  for (const Case& c : cases) {
    const Shape shape{37, c.choices};
    const Tensor bias = normal(DType::f32, {c.choices}, "bias");
    const Tensor scores = normal(DType::f32, shape, "scores");
    expect_choice(scores, {}, c.rule, "scores");
    expect_choice(scores, bias, c.rule, "scores and bias");
    // Of five values, so that many are equal; −0 among them.
    Values few = normal_values(shape.numel(), "few");
    for (double& v : few) v = std::clamp(std::round(v), -2.0, 2.0);
    expect_choice(tensor(DType::f32, shape, few), {}, c.rule, "equal scores");
    expect_choice(tensor(DType::f32, shape, Values(few.size(), 0.25)), {}, c.rule, "all the same");
  }
}

TEST_P(RouterTest, EqualScoresGoToTheLowerNumber) {
  const Tensor scores = tensor(DType::f32, {2, 4}, {0.0, 3.0, -0.0, 3.0, -0.0, 0.0, -1.0, 0.0});
  EXPECT_EQ(choose(scores, {}, {.top_k = 4}), (Values{1, 3, 0, 2, 0, 1, 3, 2}));
  // Groups {1, 4}, {4, 1}, {3, 3}: by their best the first two are equal, by their best two together the third leads.
  const Tensor grouped = tensor(DType::f32, {1, 6}, {1, 4, 4, 1, 3, 3});
  TopKRule rule{.top_k = 2, .num_groups = 3, .groups_per_token = 1};
  EXPECT_EQ(choose(grouped, {}, rule), (Values{1, 0}));
  rule.group_score = GroupScoring::sum_of_best_two;
  EXPECT_EQ(choose(grouped, {}, rule), (Values{4, 5}));
  // The bias counts for groups, too: now the second leads.
  EXPECT_EQ(choose(grouped, tensor(DType::f32, {6}, {0, 0, 0, 2, 0, 0}), rule), (Values{2, 3}));
}

// What else goes wrong, a choice names an expert that there is.
TEST_P(RouterTest, ScoresThatAreNoNumbersComeLast) {
  const double nan = std::nan("");
  const double inf = INFINITY;
  const Tensor scores = tensor(DType::f32, {2, 4}, {nan, -inf, 1, inf, nan, nan, nan, nan});
  EXPECT_EQ(choose(scores, {}, {.top_k = 4}), (Values{3, 2, 1, 0, 0, 1, 2, 3}));
  const Values grouped = choose(scores, {}, {.top_k = 2, .num_groups = 2, .groups_per_token = 1});
  EXPECT_EQ(Values(grouped.begin(), grouped.begin() + 2), (Values{3, 2}));
  for (const double e : grouped) EXPECT_TRUE(e >= 0 && e < 4) << e;
}

TEST_P(RouterTest, WeightsMatchReference) {
  struct Case {
    int64_t tokens;
    int64_t choices;
    int64_t slots;
  };
  for (const Scoring scoring : kScorings) {
    for (const Case& c : {Case{3, 1, 1}, Case{9, 7, 2}, Case{50, 64, 8}, Case{5, 40, 40}}) {
      for (const WeightRule& rule :
           {WeightRule{true, 1.0f}, WeightRule{false, 1.0f}, WeightRule{true, 2.5f}, WeightRule{false, 16.0f}}) {
        const Tensor scores = scores_of(normal(DType::f32, {c.tokens, c.choices}, "logits", 2.0), scoring);
        const std::vector<int32_t> experts = some_choices(c.tokens, c.choices, c.slots);
        Tensor weights = unset(DType::f32, {c.tokens, c.slots});
        ops::route_weights(stream(), scores, i32(weights.shape(), experts), rule, weights);
        expect_close(read(weights), reference_weights(read(scores), c.choices, experts, c.slots, rule),
                     tolerance(DType::f32, OpKind::reduction), "weights");
      }
    }
  }
}

// 1e-20 keeps a token finite whose chosen scores are all 0; a sum of that size shows it.
TEST_P(RouterTest, WeightsOfNextToNothing) {
  const Tensor scores = tensor(DType::f32, {3, 2}, {0, 1, 1e-20, 1, 1e-20, 3e-20});
  Tensor weights = unset(DType::f32, {3, 2});
  ops::route_weights(stream(), scores, i32({3, 2}, {0, -1, -1, 0, 0, 1}), {}, weights);
  expect_close(read(weights), {0, 0, 0, 0.5, 0.2, 0.6}, tolerance(DType::f32, OpKind::reduction), "weights");
  Tensor none = unset(DType::f32, {3, 2});
  ops::route_weights(stream(), scores, i32({3, 2}, {-1, -1, -1, -1, -1, -1}), {}, none);
  EXPECT_EQ(read(none), Values(6));
}

TEST_P(RouterTest, LargeLogitsStayNumbers) {
  constexpr double kBig = 30000;
  // All that the last token has chosen has a score of 0.
  const Values x = {kBig, -kBig, 0, kBig, kBig, kBig, -kBig, -kBig, -kBig, kBig, -kBig, -kBig};
  const Tensor logits = tensor(DType::f32, {4, 3}, x);
  const Tensor experts = i32({4, 2}, {0, 1, 0, 2, 2, 1, 1, 2});
  const Tensor dweights = normal(DType::f32, {4, 2}, "dweights");
  const Tensor balance = normal(DType::f32, {1, 3}, "balance");
  for (const Scoring scoring : kScorings) {
    const Tensor scores = scores_of(logits, scoring);
    for (const double s : read(scores)) EXPECT_TRUE(s >= 0 && s <= 1) << s;
    Tensor weights = unset(DType::f32, {4, 2});
    ops::route_weights(stream(), scores, experts, {}, weights);
    for (const double w : read(weights)) EXPECT_TRUE(w >= 0 && w <= 1) << w;
    Tensor counts = tensor(DType::i64, {1, 3}, Values(3));
    Tensor probabilities = tensor(DType::f64, {1, 3}, Values(3));
    Tensor sums = tensor(DType::f64, {2}, Values(2));
    ops::router_statistics(stream(), logits, scores, scoring, experts, {0, 4}, counts, probabilities, sums);
    expect_close({read(sums)[0]}, {4 * kBig * kBig}, 1e-4, "logsumexp²");
    const Values p = read(probabilities);
    EXPECT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 4, 1e-5);
    EXPECT_TRUE(read(sums)[1] >= 0 && read(sums)[1] <= 4 * std::log(3.0) + 1e-5) << read(sums)[1];
    Tensor dlogits = unset(DType::f32, {4, 3});
    for (const float z_scale : {0.0f, 1e-3f}) {
      ops::router_backward(stream(), logits, scores, scoring, experts, {}, dweights, balance, {0, 4}, z_scale, dlogits);
      for (const double d : read(dlogits)) EXPECT_TRUE(std::isfinite(d)) << d;
    }
    EXPECT_NEAR(read(dlogits)[0], 2 * 1e-3 * kBig, 1);  // of the z-loss; all others are small beside it
  }
}

TEST_P(RouterTest, SameBitsOnAnyPool) {
  constexpr int64_t kTokens = 900;
  constexpr int64_t kChoices = 24;
  for (const Scoring scoring : kScorings) {
    expect_same_bits_on_any_pool([&](Stream& on) {
      const Shape shape{kTokens, kChoices};
      const Tensor logits = make_tensor(on, DType::f32, shape, normal_values(shape.numel(), "logits"));
      Tensor scores = make_unset(on, DType::f32, shape);
      Tensor experts = make_unset(on, DType::i32, {kTokens, 4});
      Tensor weights = make_unset(on, DType::f32, {kTokens, 4});
      Tensor dlogits = make_unset(on, DType::f32, shape);
      Tensor counts = make_tensor(on, DType::i64, {3, kChoices}, Values(3 * kChoices));
      Tensor probabilities = make_tensor(on, DType::f64, {3, kChoices}, Values(3 * kChoices));
      Tensor sums = make_tensor(on, DType::f64, {2}, Values(2));
      Tensor gradient = make_unset(on, DType::f32, {3, kChoices});
      Tensor loss = make_tensor(on, DType::f64, {1}, Values(1));
      const TokenStretches stretches{100, 400};
      ops::router_scores(on, logits, scoring, scores);
      ops::choose_top_k(on, scores, {}, {.top_k = 4}, experts);
      ops::route_weights(on, scores, experts, {}, weights);
      ops::router_statistics(on, logits, scores, scoring, experts, stretches, counts, probabilities, sums);
      ops::balance_loss(on, counts, probabilities, {}, 0.01, gradient, loss);
      ops::router_backward(on, logits, scores, scoring, experts, {}, weights, gradient, stretches, 0.1f, dlogits);
      return std::vector<Tensor>{scores, experts, weights, counts, probabilities, sums, gradient, loss, dlogits};
    });
  }
}

TEST_P(RouterTest, WorksOnNoTokens) {
  const Tensor nothing = unset(DType::f32, {0, 6});
  for (const Scoring scoring : kScorings) {
    Tensor scores = scores_of(nothing, scoring);
    Tensor experts = unset(DType::i32, {0, 2});
    Tensor weights = unset(DType::f32, {0, 2});
    ops::choose_top_k(stream(), scores, {}, {.top_k = 2}, experts);
    ops::choose_top_k(stream(), scores, normal(DType::f32, {6}, "bias"),
                      {.top_k = 2, .num_groups = 3, .groups_per_token = 1}, experts);
    ops::route_weights(stream(), scores, experts, {}, weights);
    Tensor counts = tensor(DType::i64, {2, 6}, Values(12, 3));
    Tensor probabilities = tensor(DType::f64, {2, 6}, Values(12, 4));
    Tensor sums = tensor(DType::f64, {2}, {5, 6});
    ops::router_statistics(stream(), nothing, scores, scoring, experts, {16, 8}, counts, probabilities, sums);
    EXPECT_EQ(read(counts), Values(12, 3));
    EXPECT_EQ(read(probabilities), Values(12, 4));
    EXPECT_EQ(read(sums), (Values{5, 6}));
    Tensor dlogits = unset(DType::f32, {0, 6});
    ops::router_backward(stream(), nothing, scores, scoring, experts, {}, weights, normal(DType::f32, {2, 6}, "b"),
                         {16, 8}, 1.0f, dlogits);
  }
  stream().synchronize();
}

TEST_P(RouterTest, RefusesWhatDoesNotFit) {
  const Tensor scores = normal(DType::f32, {2, 6}, "scores");
  Tensor experts = unset(DType::i32, {2, 4});
  EXPECT_THROW(ops::choose_top_k(stream(), scores, {}, {.top_k = 3}, experts), BugError);
  EXPECT_THROW(ops::choose_top_k(stream(), scores, {}, {.top_k = 4, .num_groups = 4}, experts), BugError);
  EXPECT_THROW(ops::choose_top_k(stream(), scores, {}, {.top_k = 4, .num_groups = 2}, experts), BugError);
  Tensor counts = tensor(DType::i64, {2, 6}, Values(12));
  Tensor undefined;
  EXPECT_THROW(
      ops::router_statistics(stream(), scores, scores, Scoring::softmax, experts, {7, 4}, counts, undefined, undefined),
      BugError);  // the second token is of a third stretch
}

TRIREME_OP_DEVICES(RouterTest);

}  // namespace
}  // namespace trireme::testing
