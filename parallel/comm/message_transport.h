// Ranks of different nodes exchange MPI messages. Used by the communication thread only.
//
// A reduction sends each rank's part of a piece to the piece's owner, which adds them in rank order and
// sends the sum to everybody, some chunks at a time. Every message is far smaller than 2^31 bytes. All groups
// share one MPI communicator; the tag says which group a message belongs to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/transport.h"

namespace trireme {

// A duplicate of MPI_COMM_WORLD, with errors returned; one per process.
class MessageWorld {
 public:
  MessageWorld();
  ~MessageWorld();
  MessageWorld(const MessageWorld&) = delete;
  MessageWorld& operator=(const MessageWorld&) = delete;
  struct Handle;
  Handle& handle() const { return *handle_; }

 private:
  std::unique_ptr<Handle> handle_;
};

// `group_id` differs from that of every other group that shares two ranks with this one.
std::unique_ptr<Transport> make_message_transport(MessageWorld& world, int64_t group_id, int rank,
                                                  std::vector<int> world_ranks, int64_t chunk_bytes);

}  // namespace trireme
