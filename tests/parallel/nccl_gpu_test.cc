// The conformance cases on the nccl backend between the GPUs of this machine, ranks as threads. No test where there is
// no GPU; tests/emulator runs the same cases on emulated ones.
#include <gtest/gtest.h>

#include <tuple>

#include "parallel/comm/cuda/nccl_communicator.h"
#include "parallel/comm/thread_world.h"
#include "tests/parallel/comm_conformance.h"
#include "tests/run_devices.h"

namespace trireme {
namespace {

class NcclOnGpus : public ::testing::TestWithParam<std::tuple<int, size_t>> {};

TEST_P(NcclOnGpus, Holds) {
  const auto [ranks, index] = GetParam();
  run_thread_ranks(ranks, [&, index = index](Communicator& world) {
    TestGpu gpu(world.rank());
    std::vector<int> all;
    for (int r = 0; r < world.size(); ++r) all.push_back(r);
    const auto comm = make_nccl_communicator(world.split(all, "hosts"), "world", *gpu.stream,
                                             {.init_seconds = 120, .call_seconds = 60});
    EXPECT_EQ(comm->backend(), "nccl");
    conformance_cases()[index].run(*comm, *gpu.stream);
    gpu.stream->synchronize();
  });
}

std::vector<int> rank_counts() {
  return cuda::num_devices() > 0 ? ranks_that_fit({1, 2, 3, 4, 8}) : std::vector<int>{};
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(NcclOnGpus);  // without a GPU
INSTANTIATE_TEST_SUITE_P(Comm, NcclOnGpus,
                         ::testing::Combine(::testing::ValuesIn(rank_counts()),
                                            ::testing::Range(size_t{0}, conformance_cases().size())),
                         [](const auto& test) {
                           return "nccl" + std::to_string(std::get<0>(test.param)) + "_" +
                                  conformance_cases()[std::get<1>(test.param)].name;
                         });

}  // namespace
}  // namespace trireme
