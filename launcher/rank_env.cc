#include "launcher/rank_env.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

// The value of the first of these variables that is a number >= 0, or -1.
int number(const GetEnv& env, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = env(name);
    const auto value = text ? parse_count(text) : std::nullopt;
    if (value && *value >= 0 && *value < (1 << 30)) return static_cast<int>(*value);
  }
  return -1;
}

// Slurm's tasks per node, "2(x3),1", on node number `node`.
int tasks_of_node(const std::string& text, int node) {
  size_t at = 0;
  while (at < text.size()) {
    char* end = nullptr;
    const long tasks = std::strtol(text.c_str() + at, &end, 10);
    long nodes = 1;
    if (end[0] == '(' && end[1] == 'x') nodes = std::strtol(end + 2, &end, 10);
    if (node < nodes) return static_cast<int>(std::max(1L, tasks));
    node -= static_cast<int>(nodes);
    const size_t comma = text.find(',', static_cast<size_t>(end - text.c_str()));
    if (comma == std::string::npos) break;
    at = comma + 1;
  }
  return 1;
}

}  // namespace

RankEnv find_rank_env(const GetEnv& env) {
  RankEnv found;
  found.pmix = env("PMIX_RANK") != nullptr || env("PMIX_NAMESPACE") != nullptr;
  if (const int size = number(env, {"OMPI_COMM_WORLD_SIZE"}); size >= 1) {
    found.starter = Starter::mpirun;
    found.world_size = size;
    found.rank = std::max(0, number(env, {"OMPI_COMM_WORLD_RANK"}));
    found.local_rank = std::max(0, number(env, {"OMPI_COMM_WORLD_LOCAL_RANK"}));
    found.local_size = std::max(1, number(env, {"OMPI_COMM_WORLD_LOCAL_SIZE"}));
    return found;
  }
  // A step's own variables come first: those of the whole job also stand in a batch script.
  const int tasks = number(env, {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"});
  if (const int rank = number(env, {"SLURM_PROCID"}); rank >= 0 && tasks >= 1) {
    found.starter = Starter::srun;
    found.world_size = tasks;
    found.rank = rank;
    found.local_rank = std::max(0, number(env, {"SLURM_LOCALID"}));
    const char* per_node = env("SLURM_STEP_TASKS_PER_NODE");
    if (!per_node) per_node = env("SLURM_TASKS_PER_NODE");
    found.local_size = per_node ? tasks_of_node(per_node, std::max(0, number(env, {"SLURM_NODEID"}))) : 1;
    return found;
  }
  if (const int size = number(env, {"PMI_SIZE"}); size >= 1) {
    found.starter = Starter::other;
    found.world_size = size;
    found.rank = std::max(0, number(env, {"PMI_RANK"}));
    found.local_rank = std::max(0, number(env, {"MPI_LOCALRANKID"}));
    found.local_size = std::max(1, number(env, {"MPI_LOCALNRANKS"}));
  }
  return found;
}

RankEnv find_rank_env() {
  return find_rank_env([](const char* name) { return std::getenv(name); });
}

void check_tasks(const RankEnv& env, const std::string& arguments) {
  const bool alone = env.starter == Starter::other || (env.starter == Starter::srun && !env.pmix);
  if (env.world_size == 1 || !alone) return;
  const std::string number_text = std::to_string(env.world_size);
  if (env.starter == Starter::srun) {
    throw ConfigError({.what = "Slurm has " + number_text + " tasks here, but they can't find each other: no PMIx",
                       .expected = "srun --mpi=pmix",
                       .found = "no PMIX_RANK in the environment",
                       .hint = "`srun --mpi=pmix trireme " + arguments + "` (or srun -n 1 for a single task)"});
  }
  throw ConfigError({.what = "started as one of " + number_text + " tasks by a launcher of another MPI",
                     .expected = "Open MPI's mpirun",
                     .hint = "`mpirun.openmpi -np " + number_text + " trireme " + arguments + "`"});
}

int find_terminal(const RankEnv& env, int fd) {
  if (::isatty(fd) == 1) return ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (env.starter != Starter::mpirun || env.rank != 0) return -1;
  const std::string parent = "/proc/" + std::to_string(::getppid()) + "/fd/" + std::to_string(fd);
  // Only a terminal may be opened: opening a pipe could wait for ever.
  char target[256];
  const ssize_t length = ::readlink(parent.c_str(), target, sizeof target - 1);
  if (length <= 0) return -1;
  const std::string device(target, static_cast<size_t>(length));
  if (!device.starts_with("/dev/pts/") && !device.starts_with("/dev/tty")) return -1;
  const int terminal = ::open(device.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (terminal >= 0 && ::isatty(terminal) != 1) {
    ::close(terminal);
    return -1;
  }
  return terminal;
}

}  // namespace trireme
