// Golden cases in layouts: tensor and sequence parallelism, every pipeline schedule, every stage of ZeRO, and all of it
// together, against PyTorch. Ranks as threads; on the GPUs of a machine that has some.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"
#include "tests/oracle/golden_layouts.h"
#include "tests/run_devices.h"
#include "tests/thread_ranks.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

class OracleLayouts : public ::testing::TestWithParam<golden::LayoutCase> {};

TEST_P(OracleLayouts, MatchPyTorch) {
  const golden::LayoutCase& c = GetParam();
  const std::string file = "layout-" + c.layout + "-" + c.name + "-" + std::to_string(::getpid()) + ".safetensors";
  const std::string out = (fs::path(::testing::TempDir()) / file).string();
  std::vector<std::string> sets = c.sets;
  sets.push_back("run.threads=1");
  const golden::Run run = golden::make_run(c.name, out, sets);
  run_rank_contexts(run.config, c.ranks, [&](RankContext& rank) { probe(rank, run.config, run.options); });
  golden::expect_golden(c.name, out);
  fs::remove(out);
}

// Emulated GPUs are slow: two models for each layout.
std::vector<golden::LayoutCase> cases_here() {
  return golden::layout_cases(1, most_ranks(8), run_device_name() == "cpu" ? 100 : 2);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OracleLayouts);  // on a machine with one GPU
INSTANTIATE_TEST_SUITE_P(Golden, OracleLayouts, ::testing::ValuesIn(cases_here()),
                         [](const auto& p) { return p.param.layout + "_" + p.param.name + "_" + run_device_name(); });

}  // namespace
}  // namespace trireme
