// Layouts on emulated GPUs with NCCL between them, one rank as a thread for each, against one rank: loss, gradient norm,
// every gradient and every weight after two steps; in bf16 the gradients of the first step against one rank in fp32.
#include <gtest/gtest.h>

#include "launcher/verify.h"
#include "tests/emulator/emulator.h"
#include "tests/parallel/named_layouts.h"

namespace trireme {
namespace {

using layouts::NamedLayout;

std::vector<NamedLayout> in_bf16() {
  std::vector<NamedLayout> list;
  for (const NamedLayout& layout : layouts::named_layouts()) {
    if (layout.ranks == 8 || layout.name == "tensor2_sequence" || layout.name == "pipeline4_1f1b")
      list.push_back(layout);
  }
  return list;
}

class CudaLayouts : public ::testing::TestWithParam<NamedLayout> {
 protected:
  void check(const std::vector<std::string>& sets) {
    const int64_t launches = emulator::counters().launches;
    Config config = layouts::named_config(GetParam(), sets);
    config.run.device = DeviceChoice::cuda;
    config.parallel.backend = CommBackend::nccl;
    const VerifyReport report = verify(config);
    EXPECT_EQ(report.exact, config.precision.compute == ComputeType::fp32);
    EXPECT_TRUE(report.passed()) << report.str();
    EXPECT_GT(emulator::counters().launches, launches + 1000) << "nothing ran on the GPUs";
  }
};

TEST_P(CudaLayouts, TrainAsOneRankDoes) { check({}); }
class CudaLayoutsBf16 : public CudaLayouts {};
TEST_P(CudaLayoutsBf16, TrainAsOneRankDoes) { check({"precision.compute=bf16"}); }

const auto kName = [](const auto& p) { return p.param.name; };
INSTANTIATE_TEST_SUITE_P(Named, CudaLayouts, ::testing::ValuesIn(layouts::named_layouts()), kName);
INSTANTIATE_TEST_SUITE_P(Named, CudaLayoutsBf16, ::testing::ValuesIn(in_bf16()), kName);

}  // namespace
}  // namespace trireme
