// Which samples come when: permutation, blend, batch plan.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "core/data/batch_plan.h"
#include "core/data/blend.h"
#include "core/data/permutation.h"
#include "core/random/philox.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::message_of;

TEST(Permutation, IsABijection) {
  std::vector<int64_t> sizes(300);
  std::iota(sizes.begin(), sizes.end(), int64_t{1});
  for (const int64_t n : {1023, 1024, 1025, 4096, 4097, 65537, 100003}) sizes.push_back(n);
  for (const int64_t n : sizes) {
    const Permutation order(n, random_key(5, std::to_string(n)));
    std::vector<bool> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t image = order(i);
      ASSERT_TRUE(image >= 0 && image < n) << n;
      ASSERT_FALSE(seen[static_cast<size_t>(image)]) << n;
      seen[static_cast<size_t>(image)] = true;
    }
  }
}

TEST(Permutation, StaysInsideHugeRanges) {
  for (const int64_t n : {(int64_t{1} << 40) + 1, int64_t{1} << 62}) {
    const Permutation order(n, 9);
    std::set<int64_t> images;
    for (int64_t i = 0; i < 1000; ++i) {
      const int64_t image = order(n - 1 - i);
      ASSERT_TRUE(image >= 0 && image < n);
      images.insert(image);
    }
    EXPECT_EQ(images.size(), 1000u);
  }
}

// Over many keys every element goes everywhere equally often, and neighbours don't stay together.
TEST(Permutation, LooksRandom) {
  for (const int64_t n : {3, 5, 10, 37}) {
    constexpr int kKeys = 20000;
    std::vector<int64_t> counts(static_cast<size_t>(n));
    int64_t adjacent = 0;
    for (int key = 0; key < kKeys; ++key) {
      const Permutation order(n, random_key(static_cast<uint64_t>(key), "k"));
      ++counts[static_cast<size_t>(order(1))];
      adjacent += (order(0) + 1) % n == order(1) ? 1 : 0;
    }
    const double expected = static_cast<double>(kKeys) / static_cast<double>(n);
    double chi_square = 0;
    for (const int64_t count : counts) chi_square += std::pow(static_cast<double>(count) - expected, 2) / expected;
    const double freedom = static_cast<double>(n - 1);
    EXPECT_LT(chi_square, freedom + 5 * std::sqrt(2 * freedom)) << n;
    const double p = 1.0 / freedom;  // 1 of the n-1 other places
    EXPECT_NEAR(static_cast<double>(adjacent) / kKeys, p, 5 * std::sqrt(p / kKeys)) << n;
  }
}

// |count_s(i) - w_s i| < 1 at every i, and indices that count up by one within each source.
void expect_shares(const std::vector<double>& weights, int64_t samples, double slack) {
  const Blend blend(weights);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> counts(weights.size());
  for (int64_t i = 0; i < samples; ++i) {
    const Blend::Pick pick = blend.at(i);
    const auto source = static_cast<size_t>(pick.source);
    ASSERT_LT(source, weights.size());
    ASSERT_EQ(pick.index, counts[source]) << "sample " << i;
    ++counts[source];
    for (size_t s = 0; s < weights.size(); ++s) {
      const double quota = weights[s] / total * static_cast<double>(i + 1);
      ASSERT_LT(std::abs(static_cast<double>(counts[s]) - quota), 1 + slack) << "source " << s << " after " << i + 1;
    }
  }
}

TEST(Blend, KeepsSharesToOneSample) {
  constexpr double kRounding = 1e-9;  // of the quota, in this test
  expect_shares({1.0}, 100, kRounding);
  expect_shares({0.7, 0.3}, 5000, kRounding);
  expect_shares({0.5, 0.3, 0.2}, 5000, kRounding);
  expect_shares({3, 5, 2, 7, 1, 1, 1}, 5000, kRounding);
  expect_shares({0.91, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01}, 5000,
                kRounding);  // breaks Webster's method
  expect_shares({0.123456, 0.000001, 0.876543}, 30000, kRounding);
  expect_shares({1e-4, 1.0}, 30000, kRounding);
  expect_shares({5e8, 2e8, 3e8}, 5000, kRounding);
}

TEST(Blend, KeepsRandomSharesToOneSample) {
  for (uint64_t trial = 0; trial < 200; ++trial) {
    const auto sources = 2 + uniform_below(1, trial, 20);
    std::vector<double> weights;
    for (uint64_t s = 0; s < sources; ++s) {
      weights.push_back(1.0 + static_cast<double>(uniform_below(2, trial * 100 + s, s % 3 == 0 ? 1000 : 20)));
    }
    expect_shares(weights, 3000, 1e-9);
  }
}

// Weights that need a longer period than the table are rounded: a millionth at most.
TEST(Blend, RoundsWeightsThatNoTableHolds) {
  const std::vector<double> weights = {std::sqrt(2.0), std::exp(1.0), 1e-12, 0.25};
  const Blend blend(weights);
  EXPECT_EQ(blend.period(), Blend::kMaxPeriod);
  EXPECT_EQ(blend.share(2), 1);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  int64_t sum = 0;
  for (int s = 0; s < 4; ++s) {
    EXPECT_NEAR(blend.weight(s), weights[static_cast<size_t>(s)] / total,
                1.01 / static_cast<double>(Blend::kMaxPeriod));
    sum += blend.share(s);
  }
  EXPECT_EQ(sum, blend.period());
  expect_shares(weights, 20000, 0.04);
  const Blend uneven(std::vector<double>(3, 1.0 / 3.0));
  EXPECT_EQ(uneven.period(), 3);
}

TEST(Blend, AnswersForAnySampleAtOnce) {
  const Blend blend(std::vector<double>{0.5, 0.3, 0.2});
  const int64_t far = int64_t{1} << 50;
  const Blend::Pick pick = blend.at(far * 10 + 3);
  const Blend::Pick near = blend.at(3);
  EXPECT_EQ(pick.source, near.source);
  EXPECT_EQ(pick.index, near.index + far * blend.share(near.source));
}

TEST(Blend, RefusesWeights) {
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_CONTAINS(message_of<ConfigError>([&] { Blend(std::vector<double>{1.0, weight}); }), "source 1 of the blend");
  }
}

// Every sample from `begin` on exactly once, in the order of steps, over all microbatches and ranks.
int64_t expect_covers(const BatchPlan& plan, int64_t step, int64_t end_step, int64_t begin) {
  for (; step < end_step; ++step) {
    EXPECT_EQ(plan.consumed(step), begin);
    std::vector<int64_t> samples;
    for (int64_t j = 0; j < plan.num_microbatches(step); ++j) {
      for (int64_t d = 0; d < plan.data_degree(); ++d) {
        for (int64_t m = 0; m < plan.micro(); ++m) samples.push_back(plan.first_sample(step, j, d) + m);
      }
    }
    std::sort(samples.begin(), samples.end());
    EXPECT_EQ(static_cast<int64_t>(samples.size()), plan.batch(step));
    for (const int64_t sample : samples) EXPECT_EQ(sample, begin++);
  }
  return begin;
}

TEST(BatchPlan, GivesEverySampleOnce) {
  const BatchPlan plan({.global = 24, .micro = 2, .data_degree = 3});
  EXPECT_EQ(plan.num_microbatches(0), 4);
  EXPECT_EQ(plan.first_sample(5, 1, 2), 5 * 24 + (1 * 3 + 2) * 2);
  EXPECT_EQ(expect_covers(plan, 0, 10, 0), 240);
  EXPECT_EQ(plan.consumed(int64_t{1} << 40), 24 * (int64_t{1} << 40));
}

// The rule of the ramp, step by step: batch = start + floor(consumed / (samples / increments)) · increment.
TEST(BatchPlan, RampsUp) {
  for (const int64_t samples : {1, 7, 100, 1000, 999, 12345}) {
    const BatchPlan plan({.global = 64, .micro = 2, .data_degree = 4, .ramp = BatchRamp{8, 8, samples}});
    int64_t consumed = 0;
    for (int64_t step = 0; step < 600; ++step) {
      const double increments = std::floor(static_cast<double>(consumed) * 7.0 / static_cast<double>(samples));
      const int64_t batch = consumed >= samples ? 64 : 8 + 8 * static_cast<int64_t>(increments);
      ASSERT_EQ(plan.consumed(step), consumed) << samples << " step " << step;
      ASSERT_EQ(plan.batch(step), batch) << samples << " step " << step;
      consumed += batch;
    }
    EXPECT_EQ(plan.batch(599), 64);
    expect_covers(plan, 0, 50, 0);
  }
}

// Stop, change everything that may change, continue: the samples go on where they ended.
TEST(BatchPlan, ContinuesWithAnotherBatchSizeAndLayout) {
  const BatchPlan first({.global = 24, .micro = 2, .data_degree = 3, .ramp = BatchRamp{6, 6, 100}});
  int64_t consumed = expect_covers(first, 0, 13, 0);
  const BatchPlan second({.global = 32, .micro = 4, .data_degree = 2, .first_step = 13, .first_consumed = consumed});
  EXPECT_EQ(second.consumed(13), consumed);
  consumed = expect_covers(second, 13, 20, consumed);
  const BatchPlan third({.global = 48,
                         .micro = 1,
                         .data_degree = 8,
                         .ramp = BatchRamp{16, 16, 1000},
                         .first_step = 20,
                         .first_consumed = consumed});
  expect_covers(third, 20, 60, consumed);
}

// The same plan continued in its middle is the same plan.
TEST(BatchPlan, ContinuesInTheMiddleOfARamp) {
  BatchPlanOptions options{.global = 64, .micro = 2, .data_degree = 2, .ramp = BatchRamp{4, 4, 777}};
  const BatchPlan whole(options);
  for (const int64_t stop : {0, 1, 5, 17, 30, 100}) {
    options.first_step = stop;
    options.first_consumed = whole.consumed(stop);
    const BatchPlan rest(options);
    for (int64_t step = stop; step < 200; ++step) {
      ASSERT_EQ(rest.consumed(step), whole.consumed(step));
      ASSERT_EQ(rest.batch(step), whole.batch(step));
    }
  }
}

TEST(BatchPlan, NamesTheNearestBatch) {
  const std::string message = message_of<ConfigError>([] { BatchPlan({.global = 30, .micro = 2, .data_degree = 4}); });
  EXPECT_CONTAINS(message,
                  "expected a multiple of 8 (batch.micro 2 × data degree 4), found 30) at batch.global; try 24 or 32");
  EXPECT_CONTAINS(message_of<ConfigError>([] { BatchPlan({.global = 3, .micro = 2, .data_degree = 4}); }), "; try 8");
  EXPECT_CONTAINS(message_of<ConfigError>([] { BatchPlan({.global = 8, .micro = 0}); }), "batch.micro");
  const auto ramp = [](int64_t start, int64_t increment, int64_t samples) {
    return message_of<ConfigError>([&] {
      BatchPlan({.global = 32, .micro = 2, .data_degree = 2, .ramp = BatchRamp{start, increment, samples}});
    });
  };
  EXPECT_CONTAINS(ramp(0, 4, 10), "out of range");
  EXPECT_CONTAINS(ramp(8, 10, 10), "at batch.ramp.increment");
  EXPECT_CONTAINS(ramp(6, 2, 10), "at batch.ramp.start");
  EXPECT_CONTAINS(ramp(8, 6, 10), "at batch.ramp.increment");
  EXPECT_CONTAINS(ramp(64, 4, 10), "out of range");
}

}  // namespace
}  // namespace trireme
