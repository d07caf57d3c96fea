// Who started this process, read from the environment: nothing, Open MPI's mpirun, or Slurm's srun. Known before the
// ranks are connected; afterwards MpiRuntime knows better.
#pragma once

#include <functional>
#include <string>

namespace trireme {

enum class Starter { none, mpirun, srun, other };

struct RankEnv {
  Starter starter = Starter::none;
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;  // among the tasks of this machine
  int local_size = 1;
  bool pmix = false;  // a PMIx server, through which tasks find each other, is there

  // Whether to connect through MPI; otherwise this process runs alone, without it.
  bool under_mpi() const { return starter == Starter::mpirun || pmix; }
};

using GetEnv = std::function<const char*(const char*)>;

RankEnv find_rank_env(const GetEnv& env);
RankEnv find_rank_env();  // of this process

// Throws ConfigError when this is one of several tasks that can't find each other (no PMIx), naming the right command.
// `arguments`: of this process, for the hint.
void check_tasks(const RankEnv& env, const std::string& arguments);

// A descriptor of the terminal on which what is written to `fd` appears, or -1. mpirun passes output on through
// pipes, so that the terminal, if any, is the one that mpirun writes to. The caller may close it; otherwise it lives as
// long as the process.
int find_terminal(const RankEnv& env, int fd);

}  // namespace trireme
