// MPI for the life of the process: initialisation, who this rank is, the world's communicator, the end.
//
// All MPI calls are made by one communication thread, which sleeps while there is nothing to do. It makes the
// calls of all communicators asynchronous and progresses them independently of each other. Ranks of one node
// meet in shared memory; groups that span nodes exchange MPI messages.
// Thread safety: communicators as in communicator.h; `abort` from any thread. One runtime per process.
// Errors: MachineError when MPI fails, ConfigError when the launcher's tasks don't find each other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace trireme {

class MpiEngine;

struct MpiOptions {
  // Every rank is treated as a node of its own, so that tests reach the code between nodes on one machine.
  bool one_rank_per_node = false;
  // Size of the pieces in which large messages travel.
  int64_t chunk_bytes = 512 << 10;
  // Tasks that the environment speaks of; ConfigError when there are several and MPI sees only this one.
  int expected_size = 1;
};

class MpiRuntime {
 public:
  // Initialises MPI, with all other ranks. REQUIRES: once per process.
  explicit MpiRuntime(const MpiOptions& options = {});
  // Finalises MPI, with all other ranks. Destroy the communicators first. While an exception unwinds it calls
  // abort instead, because the other ranks would wait for ever.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this machine
  int local_size() const;
  std::string library() const;  // "Open MPI v4.1.4"

  // A communicator of all ranks; collective and blocking.
  std::unique_ptr<Communicator> world(FlightRecorder& recorder, const std::string& name = "world");

  // Ends all ranks at once; this process exits with `code`. Does not return.
  [[noreturn]] void abort(ExitCode code);

 private:
  std::shared_ptr<MpiEngine> engine_;
};

}  // namespace trireme
