// Trireme against PyTorch: every case of golden/ through `probe`, on one rank and on several as threads.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"
#include "tests/thread_ranks.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

class OracleTest : public testing::TestWithParam<std::string> {
 protected:
  void check(int ranks, std::vector<std::string> sets) {
    const std::string out =
        (fs::path(testing::TempDir()) / ("probe-" + GetParam() + "-" + std::to_string(::getpid()) + ".safetensors")).string();
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

const auto kCaseName = [](const auto& p) { return p.param; };
INSTANTIATE_TEST_SUITE_P(Golden, Oracle, testing::ValuesIn(golden::cases(1)), kCaseName);
INSTANTIATE_TEST_SUITE_P(Golden, OracleOnTwo, testing::ValuesIn(golden::cases(2)), kCaseName);
INSTANTIATE_TEST_SUITE_P(Golden, OracleOnFour, testing::ValuesIn(golden::cases(4)), kCaseName);

}  // namespace
}  // namespace trireme
