#include "parallel/comm/mpi_runtime.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

#include "parallel/comm/mpi_engine.h"

namespace trireme {

namespace {

constexpr const char* kHint = "`mpirun -np N trireme …`, or under Slurm `srun --mpi=pmix trireme …`";

}  // namespace

LaunchInfo detect_launch(const std::function<const char*(const char*)>& env) {
  const auto number = [&](const char* name) { return env(name) == nullptr ? -1 : std::atoi(env(name)); };
  LaunchInfo info;
  const int by_open_mpi = number("OMPI_COMM_WORLD_SIZE");
  if (by_open_mpi >= 1) {
    info = {.under_mpi = true, .rank = std::max(0, number("OMPI_COMM_WORLD_RANK")), .num_tasks = by_open_mpi};
    return info;
  }
  // SLURM_STEP_NUM_TASKS is set in the tasks of an srun, not in a batch script.
  const int by_slurm = number("SLURM_STEP_NUM_TASKS");
  const int by_pmi = number("PMI_SIZE");
  info.rank = std::max({0, number("PMIX_RANK"), number("PMI_RANK"), by_slurm >= 1 ? number("SLURM_PROCID") : -1});
  info.num_tasks = std::max({1, by_slurm, by_pmi});
  info.under_mpi = env("PMIX_RANK") != nullptr;
  if (!info.under_mpi && info.num_tasks > 1) {
    throw ConfigError({.what = "started as one of " + std::to_string(info.num_tasks) +
                               " tasks that cannot find each other",
                       .expected = "a launcher that speaks PMIx",
                       .found = by_slurm > 1 ? "srun without --mpi=pmix" : "another MPI's launcher",
                       .hint = kHint});
  }
  return info;
}

MpiRuntime::MpiRuntime(const MpiOptions& options) : engine_(std::make_shared<MpiEngine>(options)) {
  const LaunchInfo info = detect_launch([](const char* name) { return std::getenv(name); });
  if (info.num_tasks > 1 && size() == 1) {
    throw ConfigError({.what = "started as one of " + std::to_string(info.num_tasks) +
                               " tasks, but MPI sees only this one",
                       .hint = kHint});
  }
}

MpiRuntime::~MpiRuntime() {
  if (std::uncaught_exceptions() > 0 && size() > 1) abort(ExitCode::bug);
}

int MpiRuntime::rank() const { return engine_->places().rank; }
int MpiRuntime::size() const { return engine_->places().size; }
int MpiRuntime::local_rank() const { return engine_->places().local_rank; }
int MpiRuntime::local_size() const { return engine_->places().local_size; }
std::string MpiRuntime::library() const { return engine_->places().library; }

std::unique_ptr<Communicator> MpiRuntime::world(FlightRecorder& recorder, const std::string& name) {
  if (size() == 1) return make_self_communicator(name, recorder);
  return make_mpi_world(engine_, recorder, name);
}

void MpiRuntime::abort(ExitCode code) { engine_->abort(code); }

}  // namespace trireme
