#include "core/random/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace trireme {
namespace {

// Known answers of Random123's kat_vectors for philox4x32-10.
TEST(Philox, MatchesKnownAnswers) {
  const PhiloxBlock zero = philox4x32(0, 0, 0);
  EXPECT_EQ(zero.x[0], 0x6627E8D5u);
  EXPECT_EQ(zero.x[1], 0xE169C58Du);
  EXPECT_EQ(zero.x[2], 0xBC57AC4Cu);
  EXPECT_EQ(zero.x[3], 0x9B00DBD8u);
  const PhiloxBlock ones = philox4x32(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  EXPECT_EQ(ones.x[0], 0x408F276Du);
  EXPECT_EQ(ones.x[1], 0x41C83B0Eu);
  EXPECT_EQ(ones.x[2], 0xA20BC7C6u);
  EXPECT_EQ(ones.x[3], 0x6D5451FDu);
}

TEST(Philox, NormalHasUnitMoments) {
  const uint64_t key = random_key(7, "layer.weight");
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = normal_at(key, static_cast<uint64_t>(i));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.01);
}

TEST(Philox, KeysDifferByNameAndSeed) {
  EXPECT_NE(random_key(1, "a"), random_key(1, "b"));
  EXPECT_NE(random_key(1, "a"), random_key(2, "a"));
}

}  // namespace
}  // namespace trireme
