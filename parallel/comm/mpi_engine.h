// What the communicators of one process share under MPI: the communication thread, the table of nodes, the
// bells of this node's ranks. Behind MpiRuntime; includes no MPI header.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/comm/host_engine.h"
#include "parallel/comm/message_transport.h"
#include "parallel/comm/mpi_runtime.h"
#include "parallel/comm/shared_segment.h"

namespace trireme {

// Who is where. `node_of[r]` is the lowest world rank on the node of r.
struct MpiPlaces {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among all ranks of the machine
  int local_size = 1;
  std::vector<int> node_of;
  std::string library;
};

class MpiEngine {
 public:
  explicit MpiEngine(const MpiOptions& options);
  ~MpiEngine();

  const MpiOptions& options() const { return options_; }
  const MpiPlaces& places() const { return places_; }
  HostEngine& host() { return *host_; }
  // REQUIRES: on the communication thread.
  MessageWorld& messages() { return *messages_; }

  // Every rank of the world gives `mine` and gets everybody's. Holds up the communication thread.
  std::vector<std::byte> gather_world(std::span<const std::byte> mine);
  [[noreturn]] void abort(ExitCode code);

  bool on_my_node(int world_rank) const {
    return places_.node_of[static_cast<size_t>(world_rank)] == places_.node_of[static_cast<size_t>(places_.rank)];
  }
  // REQUIRES: on_my_node, and more than one rank there.
  Doorbell* doorbell_of(int world_rank) const;

  std::atomic<int64_t> next_group_id{0};

 private:
  void start();
  void stop();
  void meet_node();

  const MpiOptions options_;
  MpiPlaces places_;
  std::unique_ptr<MessageWorld> messages_;
  std::unique_ptr<SharedSegment> bells_;  // one for each rank of the node, in the order of world ranks
  std::unique_ptr<HostEngine> host_;      // last: its thread uses all of the above
};

// The communicator of all ranks. Collective over the world.
std::unique_ptr<Communicator> make_mpi_world(const std::shared_ptr<MpiEngine>& engine, FlightRecorder& recorder,
                                             const std::string& name);

}  // namespace trireme
