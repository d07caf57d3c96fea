// YaRN's frequencies and magnitudes against those of transformers 5.23 (_compute_yarn_parameters and DeepSeek's
// yarn_apply_mscale, in fp64). tests/oracle trains with them.
#include "models/rotary_table.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

struct Yarn {
  RopeConfig rope;
  int64_t head_dim;
  std::vector<double> frequencies;
  double magnitude;
  double score_factor;
};

std::vector<Yarn> known() {
  RopeConfig both{.type = RopeType::yarn, .theta = 50.0, .factor = 5.0, .original_max_position_embeddings = 24};
  both.beta_fast = 3.0;
  both.beta_slow = 0.5;
  both.mscale = 1.5;
  both.mscale_all_dim = 0.7;
  RopeConfig one = both;  // one of the two is as none
  one.mscale_all_dim = 0.0;
  one.truncate = false;
  RopeConfig given = both;
  given.mscale = 0.0;
  given.attention_factor = 0.9;
  const RopeConfig longest{.type = RopeType::yarn, .factor = 1.0, .original_max_position_embeddings = 4096};
  RopeConfig deepseek{.type = RopeType::yarn, .factor = 40.0, .original_max_position_embeddings = 4096};
  deepseek.mscale = deepseek.mscale_all_dim = 1.0;
  RopeConfig step{.type = RopeType::yarn, .theta = 1000.0, .factor = 2.0, .original_max_position_embeddings = 64};
  step.beta_fast = step.beta_slow = 2.0;
  step.truncate = false;
  RopeConfig fast{.type = RopeType::yarn, .theta = 2.0, .factor = 2.0, .original_max_position_embeddings = 4096};
  fast.beta_fast = 4.0;
  const RopeConfig none{.type = RopeType::yarn, .theta = 10.0, .factor = 2.0, .original_max_position_embeddings = 3};
  return {
      {both,
       8,
       {1.0, 0.27577756015966887, 0.06599663291074444, 0.010636591793889977},
       1.1157181504952605,
       1.238013730671277},
      {one, 8, {1.0, 0.25240695568430604, 0.033166011485012276, 0.010636591793889977}, 1.16094379124341, 1.0},
      {given, 8, {1.0, 0.27577756015966887, 0.06599663291074444, 0.010636591793889977}, 0.9, 1.238013730671277},
      {longest, 8, {1.0, 0.1, 0.01, 0.001}, 1.0, 1.0},
      {deepseek, 6, {1.0, 0.03133072462688627, 0.0007540521415111595}, 1.0, 1.8738542070926265},
      {step, 8, {1.0, 0.08891397050194613, 0.015811388300841896, 0.0028117066259517455}, 1.0693147180559945, 1.0},
      {fast, 4, {0.5, 0.35355339059327373}, 1.0693147180559945, 1.0},  // the blend lies behind the last pair
      {none, 4, {1.0, 0.15811388300841897}, 1.0693147180559945, 1.0},  // and before the first: as transformers has it
  };
}

TEST(RotaryTable, YarnIsThatOfTransformers) {
  int index = 0;
  for (const Yarn& yarn : known()) {
    const std::vector<double> found = rotary_frequencies(yarn.rope, yarn.head_dim);
    ASSERT_EQ(found.size(), yarn.frequencies.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i] / yarn.frequencies[i], 1.0, 1e-14) << "case " << index << ", pair " << i;
    }
    EXPECT_NEAR(rotary_magnitude(yarn.rope), yarn.magnitude, 1e-14) << "case " << index;
    EXPECT_NEAR(latent_score_factor(yarn.rope), yarn.score_factor, 1e-14) << "case " << index;
    ++index;
  }
}

// Other scalings have no magnitude, whatever stands in the keys of yarn.
TEST(RotaryTable, OnlyYarnHasAMagnitude) {
  RopeConfig rope = known()[0].rope;
  for (const RopeType type : {RopeType::standard, RopeType::linear, RopeType::llama3}) {
    rope.type = type;
    EXPECT_EQ(rotary_magnitude(rope), 1.0);
    EXPECT_EQ(latent_score_factor(rope), 1.0);
  }
}

}  // namespace
}  // namespace trireme
