#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random/philox.h"
#include "launcher/generate.h"

namespace trireme {
namespace {

TEST(SampleToken, ZeroTemperatureTakesTheLikeliestAndTheLowerOfTies) {
  const std::vector<float> logits{0.5f, 2.0f, -1.0f, 2.0f};
  for (const double u : {0.0, 0.5, 0.999}) EXPECT_EQ(sample_token(logits.data(), 4, 0.0, 0, u), 1);
  EXPECT_EQ(sample_token(logits.data(), 4, 1.0, 1, 0.9), 1);
}

TEST(SampleToken, FollowsTheSoftmaxOfTheTopK) {
  const std::vector<float> logits{1.0f, 3.0f, 2.0f, -5.0f};
  constexpr int kDraws = 20000;
  std::vector<int> count(4, 0);
  for (int i = 0; i < kDraws; ++i) {
    const float u = uniform_from_bits(philox4x32(5, static_cast<uint64_t>(i)).x[0]);
    ++count[static_cast<size_t>(sample_token(logits.data(), 4, 2.0, 2, u))];
  }
  EXPECT_EQ(count[0] + count[3], 0);
  const double expected = 1.0 / (1.0 + std::exp(-0.5));  // softmax of 3/2 and 2/2
  EXPECT_NEAR(static_cast<double>(count[1]) / kDraws, expected, 0.015);
}

}  // namespace
}  // namespace trireme
