// Under mpirun: the golden cases on as many processes as were started, in every layout of so many ranks, compared by rank 0
// with what PyTorch computed. On the CPU; with the argument --gpu one case in each layout on GPUs, which ranks share where
// there are fewer, their tensors staged through MPI.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/oracle/golden.h"
#include "tests/oracle/golden_layouts.h"

namespace trireme {
namespace {

bool& on_gpu() {
  static bool value = false;
  return value;
}

void run(MpiRuntime& mpi, const std::string& name, std::vector<std::string> sets) {
  const std::string file = "trireme-mpi-" + std::to_string(::getppid()) + ".safetensors";
  const std::string out = (std::filesystem::temp_directory_path() / file).string();
  sets.push_back("run.threads=1");
  sets.push_back(std::string("run.device=") + (on_gpu() ? "cuda" : "cpu"));
  sets.push_back("parallel.backend=mpi");
  const golden::Run golden_run = golden::make_run(name, out, sets);
  const int code = run_rank(golden_run.config, &mpi, [&](RankContext& rank) {
    EXPECT_EQ(rank.world_size(), mpi.size());
    probe(rank, golden_run.config, golden_run.options);
    return 0;
  });
  EXPECT_EQ(code, 0);
  if (mpi.rank() != 0) return;
  golden::expect_golden(name, out);
  std::filesystem::remove(out);
}

// One runtime for the process: all in one test.
TEST(OracleMpi, AllCasesAndLayouts) {
  MpiRuntime mpi;
  if (!on_gpu()) {
    SCOPED_TRACE("data parallelism alone");
    for (const std::string& name : golden::cases(mpi.size())) run(mpi, name, {});
  }
  for (const golden::LayoutCase& c : golden::layout_cases(mpi.size(), mpi.size(), on_gpu() ? 1 : 100)) {
    SCOPED_TRACE(c.layout);
    run(mpi, c.name, c.sets);
  }
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) trireme::on_gpu() |= std::string(argv[i]) == "--gpu";
  return RUN_ALL_TESTS();
}
