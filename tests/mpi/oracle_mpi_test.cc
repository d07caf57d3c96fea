// Under mpirun: the golden cases on as many processes as were started, compared by rank 0 with what PyTorch computed.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"

namespace trireme {
namespace {

int run(MpiRuntime& mpi) {
  for (const std::string& name : golden::cases(mpi.size())) {
    const std::string file = "trireme-mpi-" + std::to_string(::getppid()) + ".safetensors";
    const std::string out = (std::filesystem::temp_directory_path() / file).string();
    const golden::Run golden_run = golden::make_run(name, out, {"run.threads=1"});
    const int code = run_rank(golden_run.config, &mpi, [&](RankContext& rank) {
      EXPECT_EQ(rank.world_size(), mpi.size());
      probe(rank, golden_run.config, golden_run.options);
      return 0;
    });
    EXPECT_EQ(code, 0);
    if (mpi.rank() != 0) continue;
    golden::expect_golden(name, out);
    std::filesystem::remove(out);
  }
  return 0;
}

TEST(OracleMpi, AllCases) {
  MpiRuntime mpi;
  run(mpi);
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
