// The `nccl` backend: groups of GPUs, one for each rank. No CUDA header is needed to include this one; in a program
// built without CUDA the function says so.
//
// Every group has its own stream on the rank's GPU, of high priority, on which its calls run one after the other. A call
// starts behind what is queued on the caller's stream; `wait(stream)` makes the stream wait for the result and never the
// host (a CPU stream has nothing to wait with: there the host does). Errors of NCCL, and calls that stand still for too
// long, are found by a thread that looks a few times a second while calls are under way; the group is aborted then, so
// that its GPU is free again, and what is asked of it from then on throws.
//
// Unlike the other backends NCCL forms sums in an order of its own. With `deterministic` the choice is narrowed to
// algorithms that give the same bits for the same call on the same machines in every run.
// Calls can't be captured into a CUDA graph.
// Thread safety: as in communicator.h.
// Errors: MachineError for failures of NCCL and of CUDA (host, rank, call, NCCL's own text) and for two ranks on one
// GPU; PeerError when another rank failed or is late.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace trireme {

struct NcclOptions {
  // Sets NCCL_ALGO to Ring,Tree unless the user has set it. Of NCCL's algorithms these add in an order that depends on
  // nothing but the call and the machines; NVLS, which adds in the switch, doesn't promise that. All of NCCL's protocols
  // do, so NCCL_PROTO stays as it is.
  bool deterministic = true;
  // Seconds for all ranks to join a new group.
  double init_seconds = 300;
  // Seconds for one call to run, from when this rank's turn in the group's queue came: the others may come later, but
  // not later than this. 0: for ever.
  double call_seconds = 1800;
  // How often the thread looks.
  double watch_seconds = 0.1;
};

// A communicator of the ranks of `host`, each with the GPU of its `stream`. Collective. `host` (any backend that takes
// host tensors) carries the bootstrap of this group and of those split from it, under a name different from `name`.
// What `stream` refers to (its allocators and pool) outlives the communicator; the stream itself needn't.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, const std::string& name,
                                                     Stream& stream, const NcclOptions& options = {});

}  // namespace trireme
