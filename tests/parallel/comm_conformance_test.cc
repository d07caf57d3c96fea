// The conformance cases on the backends of one process: `self`, and `thread` with several numbers of ranks.
#include "tests/parallel/comm_conformance.h"

#include <gtest/gtest.h>

#include <tuple>

#include "parallel/comm/thread_world.h"

namespace trireme {
namespace {

class CommConformance : public ::testing::TestWithParam<std::tuple<int, size_t>> {};

TEST_P(CommConformance, Holds) {
  const auto [ranks, index] = GetParam();
  const ConformanceCase& test = conformance_cases()[index];
  if (ranks == 0) {
    TestDevice device;
    FlightRecorder recorder(0);
    const auto comm = make_self_communicator("world", recorder);
    EXPECT_EQ(comm->backend(), "self");
    test.run(*comm, device.stream);
    return;
  }
  std::vector<TestDevice> devices(static_cast<size_t>(ranks));
  run_thread_ranks(ranks, [&](Communicator& comm) {
    EXPECT_EQ(comm.backend(), "thread");
    test.run(comm, devices[static_cast<size_t>(comm.rank())].stream);
  });
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<int, size_t>>& info) {
  const auto [ranks, index] = info.param;
  return (ranks == 0 ? "self" : "thread" + std::to_string(ranks)) + "_" + conformance_cases()[index].name;
}

// 0 stands for `self`.
INSTANTIATE_TEST_SUITE_P(Comm, CommConformance,
                         ::testing::Combine(::testing::Values(0, 1, 2, 3, 4, 7),
                                            ::testing::Range(size_t{0}, conformance_cases().size())),
                         name_of);

}  // namespace
}  // namespace trireme
