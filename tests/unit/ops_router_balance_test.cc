#include "core/ops/elementwise.h"
#include "core/ops/router.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/router_reference.h"

namespace trireme::testing {
namespace {

using ops::Scoring;
using ops::TokenStretches;
using ops::WeightRule;

class RouterBalanceTest : public RouterOpTest {};

TEST_P(RouterBalanceTest, StatisticsMatchReference) {
  struct Case {
    int64_t tokens;
    int64_t choices;
    int64_t slots;
    TokenStretches stretches;
    int64_t num_stretches;
  };
  for (const Scoring scoring : kScorings) {
    for (const Case& c : {Case{1, 1, 1, {0, 1}, 1}, Case{300, 33, 2, {100, 170}, 4}, Case{600, 8, 3, {0, 1 << 30}, 1},
                          Case{70, 64, 64, {7, 16}, 5}, Case{20, 5, 1, {19, 1000}, 1}, Case{9, 512, 6, {64, 32}, 3}}) {
      const Tensor logits = normal(DType::f32, {c.tokens, c.choices}, "logits", 2.0);
      const Tensor scores = scores_of(logits, scoring);
      const std::vector<int32_t> chosen = some_choices(c.tokens, c.choices, c.slots);
      const Tensor experts = i32({c.tokens, c.slots}, chosen);
      const RouterStatistics want =
          reference_statistics(read(logits), read(scores), c.choices, chosen, c.slots, c.stretches, c.num_stretches);
      const Shape shape{c.num_stretches, c.choices};
      Tensor counts = tensor(DType::i64, shape, Values(want.counts.size(), 1000));
      Tensor probabilities = tensor(DType::f64, shape, Values(want.counts.size(), 2));
      Tensor sums = tensor(DType::f64, {2}, {3, 4});
      ops::router_statistics(stream(), logits, scores, scoring, experts, c.stretches, counts, probabilities, sums);
      const double limit = tolerance(DType::f32, OpKind::reduction);
      const std::string what = std::to_string(c.tokens) + " tokens of " + std::to_string(c.choices);
      EXPECT_EQ(plus(read(counts), -1, Values(want.counts.size(), 1000)), want.counts) << what;
      expect_close(plus(read(probabilities), -1, Values(want.counts.size(), 2)), want.probabilities, limit, what);
      expect_close({read(sums)[0] - 3}, {want.sums[0]}, limit, what + ", logsumexp²");
      expect_close({read(sums)[1] - 4 + 1}, {want.sums[1] + 1}, limit, what + ", entropy");

      // Each alone has the same bits.
      Tensor undefined;
      Tensor only_counts = tensor(DType::i64, shape, Values(want.counts.size(), 1000));
      Tensor only_probabilities = tensor(DType::f64, shape, Values(want.counts.size(), 2));
      Tensor only_sums = tensor(DType::f64, {2}, {3, 4});
      ops::router_statistics(stream(), logits, scores, scoring, experts, c.stretches, only_counts, undefined,
                             undefined);
      ops::router_statistics(stream(), logits, scores, scoring, experts, c.stretches, undefined, only_probabilities,
                             undefined);
      ops::router_statistics(stream(), logits, scores, scoring, experts, c.stretches, undefined, undefined, only_sums);
      EXPECT_EQ(read(only_counts), read(counts));
      EXPECT_EQ(read(only_probabilities), read(probabilities));
      EXPECT_EQ(read(only_sums), read(sums));
    }
  }
}

// 0 · ln 0 is 0.
TEST_P(RouterBalanceTest, ScoresOfZeroHaveNoEntropy) {
  const Tensor logits = tensor(DType::f32, {1, 2}, {0, 0});
  const Tensor scores = tensor(DType::f32, {1, 2}, {0, 0.5});
  Tensor undefined;
  Tensor sums = tensor(DType::f64, {2}, {0, 0});
  ops::router_statistics(stream(), logits, scores, Scoring::sigmoid, undefined, {}, undefined, undefined, sums);
  EXPECT_EQ(read(sums)[1], 0);
}

TEST_P(RouterBalanceTest, BalanceLossMatchesReference) {
  constexpr int64_t kChoices = 37;
  for (const int64_t stretches : {1, 3, 40}) {
    for (const bool counts_of_all : {false, true}) {
      for (const bool weighed : {false, true}) {
        const int64_t rows = counts_of_all ? 1 : stretches;
        const std::vector<int32_t> count = uniform_ids(rows * kChoices, 100000, "counts");
        const Tensor counts = tensor(DType::i64, {rows, kChoices}, Values(count.begin(), count.end()));
        const Tensor probabilities = normal(DType::f64, {stretches, kChoices}, "probabilities");
        const Tensor emphasis = weighed ? normal(DType::f32, {kChoices}, "emphasis") : Tensor{};
        Tensor gradient = unset(DType::f32, {stretches, kChoices});
        Tensor loss = tensor(DType::f64, {1}, {5});
        ops::balance_loss(stream(), counts, probabilities, emphasis, 0.125, gradient, loss);
        const Values e = weighed ? read(emphasis) : Values(kChoices, 1);
        Values want;
        for (int64_t i = 0; i < stretches * kChoices; ++i) {
          want.push_back(0.125 * e[static_cast<size_t>(i % kChoices)] *
                         count[static_cast<size_t>(counts_of_all ? i % kChoices : i)]);
        }
        expect_close(read(gradient), want, tolerance(DType::f32, OpKind::elementwise), "gradient");
        expect_close(read(loss), {5 + dot(want, read(probabilities))}, tolerance(DType::f64, OpKind::reduction),
                     "loss");
      }
    }
  }
}

struct BackwardCase {
  int64_t tokens;
  int64_t choices;
  int64_t slots;
  TokenStretches stretches;
  int64_t num_stretches;
};

const std::vector<BackwardCase> kBackwardCases = {{2, 1, 1, {0, 1}, 2},     {5, 6, 2, {4, 3}, 3},
                                                  {3, 40, 40, {0, 9}, 1},   {4, 64, 8, {2, 2}, 3},
                                                  {2, 100, 3, {0, 100}, 1}, {3, 7, 9, {0, 1}, 3}};

TEST_P(RouterBalanceTest, BackwardMatchesFiniteDifferences) {
  for (const Scoring scoring : kScorings) {
    for (const BackwardCase& c : kBackwardCases) {
      for (const WeightRule& rule : {WeightRule{true, 1.5f}, WeightRule{false, 2.0f}}) {
        for (const bool balanced : {false, true}) {
          const double z_scale = balanced ? 0.25 : 0;
          const Tensor logits = normal(DType::f32, {c.tokens, c.choices}, "logits");
          const std::vector<int32_t> experts = some_choices(c.tokens, c.choices, c.slots);
          const Tensor dweights = normal(DType::f32, {c.tokens, c.slots}, "dweights");
          const Tensor balance = balanced ? normal(DType::f32, {c.num_stretches, c.choices}, "balance", 2.0) : Tensor{};
          Tensor dlogits = unset(DType::f32, logits.shape());
          ops::router_backward(stream(), logits, scores_of(logits, scoring), scoring, i32(dweights.shape(), experts),
                               rule, dweights, balance, c.stretches, static_cast<float>(z_scale), dlogits);
          const Values d = read(dweights);
          const Values by_p = balanced ? read(balance) : Values{};
          const auto loss = [&](const Values& at) {
            const Values scores = reference_scores(at, c.choices, scoring);
            double sum = dot(d, reference_weights(scores, c.choices, experts, c.slots, rule));
            if (!balanced) return sum;
            const RouterStatistics s =
                reference_statistics(at, scores, c.choices, experts, c.slots, c.stretches, c.num_stretches);
            return sum + dot(by_p, s.probabilities) + z_scale * s.sums[0];
          };
          const Values want = gradient_of(loss, read(logits));
          double largest = 0;
          for (const double w : want) largest = std::max(largest, std::abs(w));
          // One choice of one has weight 1, whatever its logit: what is left of the gradient is rounding.
          if (largest < 1e-6) {
            for (const double got : read(dlogits)) EXPECT_NEAR(got, 0, 1e-6);
            continue;
          }
          expect_close(read(dlogits), want, tolerance(DType::f32, OpKind::reduction),
                       "dlogits of " + std::to_string(c.slots) + " of " + std::to_string(c.choices));
        }
      }
    }
  }
}

TEST_P(RouterBalanceTest, BalanceBiasGoesTowardsTheMean) {
  const Tensor before = tensor(DType::f32, {4}, {0.5, 0.5, -0.5, 0.25});
  // The mean is 2⁴⁰, which fp32 can't tell from its neighbours.
  const double mean = 1099511627776;
  const Tensor counts = tensor(DType::i64, {4}, {mean, mean - 1, mean + 1, mean});
  Tensor bias = unset(DType::f32, {4});
  ops::copy(stream(), before, bias);
  ops::update_balance_bias(stream(), counts, 0.125f, i32({1}, {0}), bias);
  EXPECT_EQ(read(bias), (Values{0.5, 0.625, -0.625, 0.25}));
  ops::update_balance_bias(stream(), counts, 0.125f, i32({1}, {1}), bias);
  EXPECT_EQ(read(bias), (Values{0.5, 0.625, -0.625, 0.25}));
  // A mean that is no whole number: 2.5.
  ops::copy(stream(), before, bias);
  ops::update_balance_bias(stream(), tensor(DType::i64, {4}, {2, 3, 0, 5}), 0.125f, i32({1}, {0}), bias);
  EXPECT_EQ(read(bias), (Values{0.625, 0.375, -0.375, 0.125}));
  Tensor one = tensor(DType::f32, {1}, {0.5});
  ops::update_balance_bias(stream(), tensor(DType::i64, {1}, {7}), 0.125f, i32({1}, {0}), one);
  EXPECT_EQ(read(one), Values{0.5});
}

TRIREME_OP_DEVICES(RouterBalanceTest);

}  // namespace
}  // namespace trireme::testing
