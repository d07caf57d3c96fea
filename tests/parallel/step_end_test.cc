// A rank that has finished may go while others still work: nothing of it may be under way then.
#include <gtest/gtest.h>

#include "launcher/layout_run.h"
#include "launcher/rank_model.h"
#include "parallel/comm/thread_world.h"
#include "tests/parallel/named_layouts.h"

namespace trireme {
namespace {

class StepEnd : public ::testing::TestWithParam<int> {};

// The values of stages 1 and 2 are gathered behind the last update, into memory of the rank.
TEST_P(StepEnd, NoCallOutlivesTheStep) {
  const Config config = layouts::tiny_config({"parallel={data: 2, zero: " + std::to_string(GetParam()) + "}"});
  const LayoutInput input = make_layout_input(config, 1, 1);
  const ThreadWorldOptions slow{.delay_seconds = [](const std::string& group, const CommCall& call) {
    return group == "data_shard" && call.op == CommOp::all_gather ? 0.03 : 0.0;
  }};
  run_thread_ranks(
      2,
      [&](Communicator& world) {
        RankContext rank(config, world, LocalPlace{world.rank(), 2});
        {
          RankModel model(rank, config);
          model.model.initialize(rank.stream(), 1);
          const HostMicrobatch microbatch{
              1, input.sequence, input.tokens.data(), input.labels.data(), input.positions.data(), nullptr};
          model.step.forward_backward(std::vector<HostMicrobatch>(2, microbatch));
          model.step.update(1e-3, 1);
          model.step.take_numbers();
        }
        int gathers = 0;
        for (const FlightRecord& record : rank.recorder().records()) {
          gathers += record.op == CommOp::all_gather;
          EXPECT_NE(record.finished, FlightRecord::kNotYet) << comm_op_name(record.op) << " of " << record.group;
        }
        EXPECT_GT(gathers, 0);
      },
      slow);
}

INSTANTIATE_TEST_SUITE_P(Zero, StepEnd, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace trireme
