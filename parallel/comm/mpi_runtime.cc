#include "parallel/comm/mpi_runtime.h"

#include <exception>

#include "parallel/comm/mpi_engine.h"

namespace trireme {

MpiRuntime::MpiRuntime(const MpiOptions& options) : engine_(std::make_shared<MpiEngine>(options)) {
  if (options.expected_size > 1 && size() == 1) {
    throw ConfigError(
        {.what = "started as one of " + std::to_string(options.expected_size) + " tasks, but MPI sees only this one",
         .hint = "`mpirun -np N trireme …`, or under Slurm `srun --mpi=pmix trireme …`"});
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
