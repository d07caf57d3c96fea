// The conformance cases of communicators on the nccl backend, ranks as threads.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/emulator/nccl_ranks.h"

namespace trireme {
namespace {

class NcclConformance : public ::testing::TestWithParam<std::tuple<int, size_t>> {};

TEST_P(NcclConformance, Holds) {
  const auto [ranks, index] = GetParam();
  run_nccl_ranks(ranks, [&](Communicator& comm, Stream& stream) {
    EXPECT_EQ(comm.backend(), "nccl");
    conformance_cases()[index].run(comm, stream);
  });
  EXPECT_EQ(emulator::nccl_counters().communicators, 0) << "a group was not left";
}

INSTANTIATE_TEST_SUITE_P(Comm, NcclConformance,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::Range(size_t{0}, conformance_cases().size())),
                         [](const auto& test) {
                           return "nccl" + std::to_string(std::get<0>(test.param)) + "_" +
                                  conformance_cases()[std::get<1>(test.param)].name;
                         });

}  // namespace
}  // namespace trireme
