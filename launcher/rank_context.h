// What one rank has: its device, memory, threads, and its communicators. Everything below gets these through
// constructors; nothing is global.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/config/config.h"
#include "core/device/allocator.h"
#include "core/device/device.h"
#include "core/device/thread_pool.h"
#include "core/error.h"
#include "launcher/rank_device.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/flight_recorder.h"
#include "parallel/comm/mpi_runtime.h"
#include "parallel/groups.h"
#include "parallel/mesh.h"
#include "parallel/tensor_group.h"

namespace trireme {

// Ends the program from any thread, as when an error with this message were thrown.
using EndProgram = std::function<void(ExitCode code, const std::string& message)>;

class RankContext {
 public:
  // The rank of `world`, a communicator of host memory, which outlives it. The ranks of a machine share its cores.
  RankContext(const Config& config, Communicator& world, LocalPlace place, EndProgram end_program = {});

  int rank() const { return world_.rank(); }
  int world_size() const { return world_.size(); }
  bool is_main() const { return rank() == 0; }
  const RankDevice& device() const { return device_; }
  Stream& stream() { return *stream_; }            // of the device
  Stream& host_stream() { return *host_stream_; }  // of the CPU, for what the ranks' hosts tell each other
  Stream& copy_stream() { return *copy_stream_; }  // of the device, for a thread that copies beside the training
  Allocator& allocator() { return *allocator_; }
  ThreadPool& pool() { return *pool_; }
  Communicator& world() { return world_; }           // host memory
  const Groups& groups() const { return *groups_; }  // the device's memory
  TensorGroup tensor_group() const { return tensor_; }
  FlightRecorder& recorder() { return world_.recorder(); }
  const Mesh& mesh() const { return mesh_; }
  const EndProgram& end_program() const { return end_program_; }  // none where ranks are threads

 private:
  Communicator& world_;
  EndProgram end_program_;
  Mesh mesh_;
  RankDevice device_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Allocator> host_allocator_;
  std::unique_ptr<Stream> host_stream_;
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<Allocator> pinned_;  // GPU only
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<ThreadPool> copy_pool_;
  std::unique_ptr<Allocator> copy_allocator_;  // CPU only
  std::unique_ptr<Stream> copy_stream_;
  std::unique_ptr<Groups> groups_;
  TensorGroup tensor_;
};

// What a failed rank does besides, before the ranks are gone; `calls`: the last that it made. Doesn't throw.
using LastWords = std::function<void(ExitCode code, const std::string& message, const FlightRecorder& calls)>;

// Runs body(context) for this process: as a rank of MPI where mpirun or srun started it, else alone. Returns the exit code.
// When `body` throws on some ranks, one of them speaks for all: it prints its error, says its last words and, under MPI,
// aborts all ranks with its code. That is one that didn't fail because of another (PeerError), if there is such a one.
int run_rank(const Config& config, MpiRuntime* mpi, const std::function<int(RankContext&)>& body,
             const LastWords& last_words = {});

// The number of cores that this process may use, shared among `local_size` ranks; at least 1.
int default_threads(int local_size);

}  // namespace trireme
