// ZeRO 0 to 3 on ranks as threads: the numbers of one rank, the same bits where that is promised, and the memory and the
// communication of the stage that was asked for.
#include <gtest/gtest.h>

#include "tests/parallel/zero_runs.h"

namespace trireme {
namespace {

using testing::largest_difference;
using testing::run_zero;
using testing::ZeroResult;
using testing::ZeroRun;

std::string zero(int stage) { return "parallel.zero=" + std::to_string(stage); }

class Zero : public ::testing::Test {
 protected:
  ZeroResult run(const ZeroRun& what) { return run_zero(dir_, what); }
  testing::TempDir dir_;
};

void expect_near(const ZeroResult& a, const ZeroResult& b, double limit) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t s = 0; s < b.losses.size(); ++s) {
    EXPECT_NEAR(a.losses[s], b.losses[s], limit * b.losses[s]) << "step " << s;
    EXPECT_NEAR(a.norms[s], b.norms[s], limit * b.norms[s]) << "step " << s;
    const auto [error, name] = largest_difference(a.gradients[s], b.gradients[s]);
    EXPECT_LE(error, limit) << "gradient of " << name << ", step " << s;
  }
  const auto [error, name] = largest_difference(a.weights, b.weights);
  EXPECT_LE(error, limit) << "weight " << name;
}

TEST_F(Zero, EveryStageMatchesOneRank) {
  for (const char* model : {"llama", "tied", "gpt2"}) {
    SCOPED_TRACE(model);
    const ZeroResult one = run({.model = model});
    for (int stage = 0; stage <= 3; ++stage) {
      for (const int ranks : {2, 4}) {
        SCOPED_TRACE(zero(stage) + " on " + std::to_string(ranks));
        expect_near(run({.model = model, .ranks = ranks, .micro = 1, .sets = {zero(stage)}}), one, 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace trireme
