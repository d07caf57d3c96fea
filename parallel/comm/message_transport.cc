#include "parallel/comm/message_transport.h"

#include <utility>

#include "parallel/comm/message_ops.h"
#include "parallel/comm/message_requests.h"

namespace trireme {

namespace {

constexpr int kTagsPerGroup = 8;

}  // namespace

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw MachineError({.what = std::string(what) + " failed: " + text});
}

MessageWorld::MessageWorld() : handle_(std::make_unique<Handle>()) {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &handle_->comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(handle_->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MessageWorld::~MessageWorld() { MPI_Comm_free(&handle_->comm); }

MessageRequests::~MessageRequests() {
  for (MPI_Request& request : requests_) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
}

void MessageRequests::send(const MessageGroup& group, MessageKind kind, int to, const void* data, int64_t bytes) {
  requests_.push_back(MPI_REQUEST_NULL);
  expected_.push_back(-1);
  check_mpi(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, group.world_ranks[static_cast<size_t>(to)],
                      group.tag(kind), group.comm, &requests_.back()),
            "MPI_Isend");
}

void MessageRequests::recv(const MessageGroup& group, MessageKind kind, int from, void* data, int64_t bytes) {
  requests_.push_back(MPI_REQUEST_NULL);
  expected_.push_back(static_cast<int>(bytes));
  check_mpi(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, group.world_ranks[static_cast<size_t>(from)],
                      group.tag(kind), group.comm, &requests_.back()),
            "MPI_Irecv");
}

bool MessageRequests::complete() {
  if (requests_.empty()) return true;
  std::vector<MPI_Status> statuses(requests_.size());
  int done = 0;
  const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses.data());
  if (code == MPI_SUCCESS && done == 0) return false;
  for (size_t i = 0; i < statuses.size(); ++i) {
    int error = code == MPI_ERR_IN_STATUS ? statuses[i].MPI_ERROR : MPI_SUCCESS;
    if (error != MPI_SUCCESS && error != MPI_ERR_PENDING) MPI_Error_class(error, &error);
    int bytes = expected_[i];
    if (error == MPI_SUCCESS && bytes >= 0) MPI_Get_count(&statuses[i], MPI_BYTE, &bytes);
    if (error == MPI_ERR_TRUNCATE || bytes != expected_[i]) {
      throw BugError({.what = "calls of the ranks don't fit: a message of another size than expected",
                      .expected = std::to_string(expected_[i]) + " bytes",
                      .found = error == MPI_ERR_TRUNCATE ? "more" : std::to_string(bytes),
                      .where = "world rank " + std::to_string(statuses[i].MPI_SOURCE)});
    }
    if (error != MPI_ERR_PENDING) check_mpi(error, "a message");
  }
  check_mpi(code, "MPI_Testall");
  requests_.clear();
  expected_.clear();
  return true;
}

namespace {

class MessageTransport final : public Transport {
 public:
  explicit MessageTransport(MessageGroup group) : group_(std::move(group)) {}
  std::unique_ptr<HostOp> start(const CommCall& call) override {
    return call.op == CommOp::send ? make_message_transfers(group_, call) : make_message_collective(group_, call);
  }
  bool needs_polling() const override { return true; }

 private:
  const MessageGroup group_;
};

}  // namespace

std::unique_ptr<Transport> make_message_transport(MessageWorld& world, int64_t group_id, int rank,
                                                  std::vector<int> world_ranks, int64_t chunk_bytes) {
  int* upper_bound = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(world.handle().comm, MPI_TAG_UB, &upper_bound, &found), "MPI_Comm_get_attr");
  const int64_t first_tag = group_id * kTagsPerGroup;
  if (found != 0 && first_tag + kTagsPerGroup > *upper_bound) {
    throw MachineError({.what = "this MPI has too few message tags for so many groups",
                        .found = std::to_string(*upper_bound) + " tags"});
  }
  return std::make_unique<MessageTransport>(MessageGroup{.comm = world.handle().comm,
                                                         .first_tag = static_cast<int>(first_tag),
                                                         .rank = rank,
                                                         .world_ranks = std::move(world_ranks),
                                                         .chunk_bytes = chunk_bytes});
}

}  // namespace trireme
