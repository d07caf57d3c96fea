#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "parallel/comm/local_transfers.h"
#include "parallel/comm/message_ops.h"
#include "parallel/comm/message_requests.h"

namespace trireme {

namespace {

constexpr int64_t kLargestMessage = int64_t{64} << 20;

// A grouped point-to-point call. Both sides of a transfer first tell each other its size; the data follow
// when both have. That makes a send wait for its receive, and a difference an error on both sides.
class MessageTransfers final : public HostOp {
 public:
  MessageTransfers(const MessageGroup& group, const CommCall& call) : group_(group) {
    run_local_transfers(call, group.rank);
    std::map<std::pair<int, Transfer::Kind>, std::vector<const Transfer*>> lanes;
    for (const Transfer& t : call.transfers) {
      if (t.peer != group.rank) lanes[{t.peer, t.kind}].push_back(&t);
    }
    for (auto& [key, list] : lanes) {
      lanes_.push_back(std::make_unique<Lane>());
      lanes_.back()->peer = key.first;
      lanes_.back()->send = key.second == Transfer::Kind::send;
      lanes_.back()->transfers = std::move(list);
    }
  }

  bool finished() const override {
    return std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->done(); });
  }

  bool step() override {
    bool progress = false;
    for (const auto& lane : lanes_) {
      if (!lane->done()) progress = advance(*lane) || progress;
    }
    return progress;
  }

 private:
  // The transfers with one peer in one direction, one after the other.
  struct Lane {
    int peer = 0;
    bool send = false;
    std::vector<const Transfer*> transfers;
    size_t next = 0;
    enum class State { idle, sizes, data } state = State::idle;
    int64_t my_bytes = 0;
    int64_t their_bytes = 0;
    MessageRequests requests;
    bool done() const { return next == transfers.size(); }
  };

  bool advance(Lane& lane) {
    const Tensor& tensor = lane.transfers[lane.next]->tensor;
    switch (lane.state) {
      case Lane::State::idle: {
        lane.my_bytes = tensor.bytes();
        const MessageKind mine = lane.send ? MessageKind::send_size : MessageKind::recv_size;
        const MessageKind theirs = lane.send ? MessageKind::recv_size : MessageKind::send_size;
        lane.requests.recv(group_, theirs, lane.peer, &lane.their_bytes, sizeof(int64_t));
        lane.requests.send(group_, mine, lane.peer, &lane.my_bytes, sizeof(int64_t));
        lane.state = Lane::State::sizes;
        return true;
      }
      case Lane::State::sizes: {
        if (!lane.requests.complete()) return false;
        if (lane.my_bytes != lane.their_bytes) refuse(lane);
        auto* data = static_cast<std::byte*>(tensor.raw());
        for (int64_t i = 0; i < lane.my_bytes; i += kLargestMessage) {
          const int64_t n = std::min(kLargestMessage, lane.my_bytes - i);
          if (lane.send) lane.requests.send(group_, MessageKind::transfer, lane.peer, data + i, n);
          if (!lane.send) lane.requests.recv(group_, MessageKind::transfer, lane.peer, data + i, n);
        }
        lane.state = Lane::State::data;
        return true;
      }
      case Lane::State::data:
        if (!lane.requests.complete()) return false;
        ++lane.next;
        lane.state = Lane::State::idle;
        return true;
    }
    return false;
  }

  [[noreturn]] void refuse(const Lane& lane) const {
    throw BugError({.what = "calls of the ranks don't fit: rank " + std::to_string(group_.rank) +
                            (lane.send ? " sends " : " expects ") + std::to_string(lane.my_bytes) + " bytes, rank " +
                            std::to_string(lane.peer) + (lane.send ? " expects " : " sends ") +
                            std::to_string(lane.their_bytes)});
  }

  const MessageGroup& group_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace

std::unique_ptr<HostOp> make_message_transfers(const MessageGroup& group, const CommCall& call) {
  return std::make_unique<MessageTransfers>(group, call);
}

}  // namespace trireme
