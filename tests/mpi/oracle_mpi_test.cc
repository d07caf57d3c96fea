// Under mpirun: the golden cases on as many processes as were started, compared by rank 0 with what PyTorch computed. On the
// CPU; with the argument --gpu on GPUs, which ranks share where there are fewer, their tensors staged through MPI.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"

namespace trireme {
namespace {

bool& on_gpu() {
  static bool value = false;
  return value;
}

int run(MpiRuntime& mpi) {
  for (const std::string& name : golden::cases(mpi.size())) {
    const std::string file = "trireme-mpi-" + std::to_string(::getppid()) + ".safetensors";
    const std::string out = (std::filesystem::temp_directory_path() / file).string();
    const golden::Run golden_run = golden::make_run(
        name, out, {"run.threads=1", std::string("run.device=") + (on_gpu() ? "cuda" : "cpu"), "parallel.backend=mpi"});
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
  for (int i = 1; i < argc; ++i) trireme::on_gpu() |= std::string(argv[i]) == "--gpu";
  return RUN_ALL_TESTS();
}
