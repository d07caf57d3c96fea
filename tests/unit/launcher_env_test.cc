// Who started this process: nothing, mpirun, srun, with and without PMIx.
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "core/error.h"
#include "launcher/rank_env.h"

namespace trireme {
namespace {

RankEnv find(const std::map<std::string, std::string>& variables) {
  return find_rank_env([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string refusal(const RankEnv& env) {
  try {
    check_tasks(env, "train a.yaml");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(RankEnv, Alone) {
  const RankEnv env = find({});
  EXPECT_EQ(env.starter, Starter::none);
  EXPECT_EQ(env.rank, 0);
  EXPECT_EQ(env.world_size, 1);
  EXPECT_EQ(env.local_size, 1);
  EXPECT_EQ(refusal(env), "");
}

TEST(RankEnv, Mpirun) {
  // mpirun inside a Slurm job: Slurm's variables are those of mpirun's own step.
  const RankEnv env = find({{"OMPI_COMM_WORLD_SIZE", "8"},
                            {"OMPI_COMM_WORLD_RANK", "5"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                            {"PMIX_RANK", "5"},
                            {"SLURM_PROCID", "0"},
                            {"SLURM_NTASKS", "2"}});
  EXPECT_EQ(env.starter, Starter::mpirun);
  EXPECT_EQ(env.rank, 5);
  EXPECT_EQ(env.world_size, 8);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 4);
  EXPECT_EQ(refusal(env), "");
}

TEST(RankEnv, Srun) {
  std::map<std::string, std::string> variables = {{"SLURM_PROCID", "6"}, {"SLURM_LOCALID", "1"},
                                                  {"SLURM_NODEID", "2"}, {"SLURM_STEP_NUM_TASKS", "7"},
                                                  {"SLURM_NTASKS", "9"}, {"SLURM_STEP_TASKS_PER_NODE", "3(x2),1"},
                                                  {"PMIX_RANK", "6"}};
  const RankEnv env = find(variables);
  EXPECT_EQ(env.starter, Starter::srun);
  EXPECT_EQ(env.rank, 6);
  EXPECT_EQ(env.world_size, 7);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 1);
  EXPECT_TRUE(env.pmix);
  EXPECT_EQ(refusal(env), "");
  variables["SLURM_NODEID"] = "1";
  EXPECT_EQ(find(variables).local_size, 3);
  variables["SLURM_STEP_TASKS_PER_NODE"] = "2,5(x3),";
  EXPECT_EQ(find(variables).local_size, 5);
  variables["SLURM_NODEID"] = "9";
  EXPECT_EQ(find(variables).local_size, 1);
}

TEST(RankEnv, SrunWithoutPmixIsRefusedWithTheCommand) {
  const RankEnv env = find({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "4"}});
  EXPECT_EQ(env.rank, 1);
  EXPECT_EQ(refusal(env),
            "Slurm has 4 tasks here, but they can't find each other: no PMIx (expected srun --mpi=pmix, found no "
            "PMIX_RANK in the environment); try `srun --mpi=pmix trireme train a.yaml` (or srun -n 1 for a single "
            "task)");
  EXPECT_EQ(refusal(find({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}})), "");
}

TEST(RankEnv, AnotherMpiIsRefused) {
  const RankEnv env = find({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}});
  EXPECT_EQ(env.starter, Starter::other);
  EXPECT_EQ(env.rank, 1);
  EXPECT_NE(refusal(env).find("mpirun.openmpi -np 2 trireme train a.yaml"), std::string::npos);
}

TEST(RankEnv, NonsenseIsIgnored) {
  EXPECT_EQ(find({{"OMPI_COMM_WORLD_SIZE", "x"}, {"SLURM_PROCID", "-1"}, {"SLURM_NTASKS", ""}}).starter, Starter::none);
}

TEST(FindTerminal, APipeHasNone) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_EQ(find_terminal(find({}), ends[1]), -1);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace trireme
