// Sends and receives under way, as message_collectives and message_transfers use them. Includes mpi.h: for
// the .cc files of the message transport only.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/comm/message_transport.h"

namespace trireme {

struct MessageWorld::Handle {
  MPI_Comm comm = MPI_COMM_NULL;
};

// Throws MachineError with MPI's own words.
void check_mpi(int code, const char* what);

// What a message is for; part of its tag.
enum class MessageKind : int { part, result, send_size, recv_size, transfer };

// One group's view of the world.
struct MessageGroup {
  MPI_Comm comm;
  int first_tag;
  int rank;
  std::vector<int> world_ranks;
  int64_t chunk_bytes;

  int size() const { return static_cast<int>(world_ranks.size()); }
  int tag(MessageKind kind) const { return first_tag + static_cast<int>(kind); }
};

// A set of messages that are waited for together. Destroying one that is not complete withdraws it.
class MessageRequests {
 public:
  MessageRequests() = default;
  ~MessageRequests();
  MessageRequests(const MessageRequests&) = delete;
  MessageRequests& operator=(const MessageRequests&) = delete;

  // REQUIRES: bytes < 2^31. The memory stays valid until the set is complete.
  void send(const MessageGroup& group, MessageKind kind, int to, const void* data, int64_t bytes);
  void recv(const MessageGroup& group, MessageKind kind, int from, void* data, int64_t bytes);
  // Whether all are done; then the set is empty. Throws BugError when a message has another size than expected.
  bool complete();

 private:
  std::vector<MPI_Request> requests_;
  std::vector<int> expected_;  // bytes of a receive, -1 for a send
};

}  // namespace trireme
