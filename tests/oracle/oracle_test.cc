// Trireme against PyTorch: every case of golden/ through `probe`, on one rank and on several as threads; on the GPUs of a
// machine that has some.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"
#include "tests/run_devices.h"
#include "tests/thread_ranks.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

class OracleTest : public ::testing::TestWithParam<std::string> {
 protected:
  void check(int ranks, std::vector<std::string> sets) {
    const std::string out =
        (fs::path(::testing::TempDir()) / ("probe-" + GetParam() + "-" + std::to_string(::getpid()) + ".safetensors"))
            .string();
    sets.push_back("run.threads=" + std::to_string(ranks == 1 ? 2 : 1));
    const golden::Run run = golden::make_run(GetParam(), out, sets);
    run_rank_contexts(run.config, ranks, [&](RankContext& rank) { probe(rank, run.config, run.options); });
    golden::expect_golden(GetParam(), out);
    fs::remove(out);
  }
};

class Oracle : public OracleTest {};
TEST_P(Oracle, OneRank) { check(1, {}); }
TEST_P(Oracle, MicrobatchesOfOne) { check(1, {"batch.micro=1"}); }
TEST_P(Oracle, SelectiveRecomputation) { check(1, {"recompute.mode=selective"}); }
TEST_P(Oracle, FullRecomputation) { check(1, {"recompute.mode=full"}); }

class OracleOnTwo : public OracleTest {};
TEST_P(OracleOnTwo, TwoRanks) { check(2, {}); }
TEST_P(OracleOnTwo, WithoutOverlap) { check(2, {"parallel.overlap_grad_reduce=false"}); }

class OracleOnFour : public OracleTest {};
TEST_P(OracleOnFour, FourRanks) { check(4, {}); }

// bf16: gradients of the first step. One rank must be near PyTorch's fp64, and ranks may add no more error than
// bf16 itself has.
class OracleBf16 : public OracleTest {
 protected:
  bool has_experts() const { return golden::make_run(GetParam(), "", {}).config.model.experts.num_experts > 0; }

  double gradient_error(int ranks) {
    const std::string out =
        (fs::path(::testing::TempDir()) / ("bf16-" + GetParam() + "-" + std::to_string(::getpid()) + ".safetensors"))
            .string();
    golden::Run run = golden::make_run(GetParam(), out, {"run.threads=1", "precision.compute=bf16"});
    run.options.steps = 1;
    run_rank_contexts(run.config, ranks, [&](RankContext& rank) { probe(rank, run.config, run.options); });
    const double error = golden::worst_error(GetParam(), out, "grad.");
    fs::remove(out);
    return error;
  }
};
TEST_P(OracleBf16, GradientsOfOneAndTwoRanks) {
  const double one = gradient_error(1);
  EXPECT_GT(one, 1e-5) << "bf16 can't be this exact: it ran in fp32";
  // A token that rounding sends to another expert is missing from one expert's gradient and new in the other's.
  EXPECT_LT(one, has_experts() ? 0.2 : 0.1);
  if (most_ranks(2) == 2) {
    EXPECT_LE(gradient_error(2), 2 * one + 1e-3);
  }
}

// Those whose batch divides by `ranks`; none where so many ranks don't fit.
std::vector<std::string> cases_for(int ranks) {
  return most_ranks(ranks) == ranks ? golden::cases(ranks) : std::vector<std::string>{};
}

const auto kCaseName = [](const auto& p) { return p.param + "_" + run_device_name(); };
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OracleOnTwo);  // on a machine with one GPU
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OracleOnFour);
INSTANTIATE_TEST_SUITE_P(Golden, Oracle, ::testing::ValuesIn(golden::cases(1)), kCaseName);
INSTANTIATE_TEST_SUITE_P(Golden, OracleOnTwo, ::testing::ValuesIn(cases_for(2)), kCaseName);
INSTANTIATE_TEST_SUITE_P(Golden, OracleBf16, ::testing::ValuesIn(golden::cases(2)), kCaseName);
INSTANTIATE_TEST_SUITE_P(Golden, OracleOnFour, ::testing::ValuesIn(cases_for(4)), kCaseName);

}  // namespace
}  // namespace trireme
