#include <gtest/gtest.h>

#include <map>
#include <string>

#include "parallel/comm/mpi_runtime.h"

namespace trireme {
namespace {

LaunchInfo detect(const std::map<std::string, std::string>& env) {
  return detect_launch([&](const char* name) -> const char* {
    const auto found = env.find(name);
    return found == env.end() ? nullptr : found->second.c_str();
  });
}

TEST(DetectLaunch, ByHand) {
  const LaunchInfo info = detect({});
  EXPECT_FALSE(info.under_mpi);
  EXPECT_EQ(info.num_tasks, 1);
}

TEST(DetectLaunch, Mpirun) {
  const LaunchInfo info = detect({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}});
  EXPECT_TRUE(info.under_mpi);
  EXPECT_EQ(info.rank, 3);
  EXPECT_EQ(info.num_tasks, 4);
}

// mpirun in a Slurm job starts its own daemons with srun; the tasks inherit their variables.
TEST(DetectLaunch, MpirunInsideSlurm) {
  const LaunchInfo info = detect({{"OMPI_COMM_WORLD_SIZE", "8"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "1"}});
  EXPECT_TRUE(info.under_mpi);
  EXPECT_EQ(info.num_tasks, 8);
  EXPECT_EQ(info.rank, 0);
}

TEST(DetectLaunch, SrunWithPmix) {
  const LaunchInfo info = detect({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}, {"PMIX_RANK", "2"}});
  EXPECT_TRUE(info.under_mpi);
  EXPECT_EQ(info.rank, 2);
  EXPECT_EQ(info.num_tasks, 4);
}

TEST(DetectLaunch, SrunWithoutPmixIsRefused) {
  try {
    detect({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}});
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(std::string(error.what()).find("srun --mpi=pmix"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("one of 4 tasks"), std::string::npos) << error.what();
  }
}

TEST(DetectLaunch, ABatchScriptIsNotATask) {
  EXPECT_FALSE(detect({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "7"}}).under_mpi);
}

}  // namespace
}  // namespace trireme
