#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "parallel/comm/message_ops.h"
#include "parallel/comm/message_requests.h"
#include "parallel/comm/reduce.h"

namespace trireme {

namespace {

constexpr int64_t kWindow = 4;  // chunks under way at a time

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A collective as a sequence of chunks, each with two rounds of messages. Messages of a round are posted in
// the order of chunks on every rank, which is the order in which MPI matches them.
class MessageCollective : public HostOp {
 public:
  MessageCollective(const MessageGroup& group, const CommCall& call)
      : group_(group), call_(call), item_(dtype_bytes(call.input.dtype())) {}

  bool finished() const final { return done_ == num_chunks_; }

  bool step() final {
    if (done_ < second_ && second_round(done_).complete()) {
      ++done_;
      return true;
    }
    if (second_ < started_ && first_round(second_).complete()) {
      post_second(second_++);
      return true;
    }
    if (started_ < num_chunks_ && started_ < done_ + kWindow) {
      post_first(started_++);
      return true;
    }
    return false;
  }

 protected:
  virtual void post_first(int64_t chunk) = 0;
  virtual void post_second(int64_t) {}  // when the chunk's first round is complete

  MessageRequests& first_round(int64_t chunk) { return first_rounds_[static_cast<size_t>(chunk % kWindow)]; }
  MessageRequests& second_round(int64_t chunk) { return second_rounds_[static_cast<size_t>(chunk % kWindow)]; }
  std::byte* input() const { return static_cast<std::byte*>(call_.input.raw()); }
  std::byte* output() const { return static_cast<std::byte*>(call_.output.raw()); }

  const MessageGroup& group_;
  const CommCall& call_;
  const int64_t item_;  // bytes of an element
  int64_t num_chunks_ = 0;

 private:
  std::array<MessageRequests, kWindow> first_rounds_;
  std::array<MessageRequests, kWindow> second_rounds_;
  int64_t started_ = 0;  // chunks whose first round is posted
  int64_t second_ = 0;   // chunks whose second round is posted
  int64_t done_ = 0;
};

// all_reduce and reduce_scatter: parts go to the owner of each piece; for all_reduce the sums come back.
class MessageReduce final : public MessageCollective {
 public:
  MessageReduce(const MessageGroup& group, const CommCall& call)
      : MessageCollective(group, call),
        all_(call.op == CommOp::all_reduce),
        piece_(std::max<int64_t>(1, group.chunk_bytes / group.size() / item_)),
        inputs_(static_cast<size_t>(group.size())) {
    num_chunks_ = all_ ? ceil_div(call.input.numel(), piece_ * group.size()) : ceil_div(call.output.numel(), piece_);
    parts_.resize(static_cast<size_t>(std::min(num_chunks_, kWindow) * group.size() * piece_ * item_));
  }

 protected:
  void post_first(int64_t k) override {
    for (int r = 0; r < group_.size(); ++r) {
      if (r == group_.rank) continue;
      first_round(k).recv(group_, MessageKind::part, r, part(k, r), piece(k, group_.rank).numel * item_);
    }
    for (int owner = 0; owner < group_.size(); ++owner) {
      if (owner == group_.rank) continue;
      const Piece p = piece(k, owner);
      first_round(k).send(group_, MessageKind::part, owner, input() + p.begin * item_, p.numel * item_);
    }
  }

  void post_second(int64_t k) override {
    const Piece mine = piece(k, group_.rank);
    for (int r = 0; r < group_.size(); ++r) {
      inputs_[static_cast<size_t>(r)] = r == group_.rank ? input() + mine.begin * item_ : part(k, r);
    }
    std::byte* sum = output() + (all_ ? mine.begin : k * piece_) * item_;
    reduce_in_rank_order(call_.input.dtype(), call_.reduce, inputs_, sum, mine.numel);
    for (int r = 0; all_ && r < group_.size(); ++r) {
      if (r == group_.rank) continue;
      const Piece theirs = piece(k, r);
      second_round(k).recv(group_, MessageKind::result, r, output() + theirs.begin * item_, theirs.numel * item_);
      second_round(k).send(group_, MessageKind::result, r, sum, mine.numel * item_);
    }
  }

 private:
  struct Piece {
    int64_t begin;  // in the input, elements
    int64_t numel;
  };
  Piece piece(int64_t k, int owner) const {
    if (!all_) {
      return {owner * call_.output.numel() + k * piece_, std::min(piece_, call_.output.numel() - k * piece_)};
    }
    const int64_t begin = k * piece_ * group_.size();
    const int64_t n = std::min(piece_ * group_.size(), call_.input.numel() - begin);
    const int64_t share = ceil_div(n, group_.size());
    const int64_t first = std::min(n, owner * share);
    return {begin + first, std::min(n, first + share) - first};
  }
  std::byte* part(int64_t k, int r) { return parts_.data() + ((k % kWindow) * group_.size() + r) * piece_ * item_; }

  const bool all_;
  const int64_t piece_;  // elements
  std::vector<const void*> inputs_;
  std::vector<std::byte> parts_;
};

// all_gather and all_to_all(_v): everybody sends a block to everybody.
class MessageExchange final : public MessageCollective {
 public:
  MessageExchange(const MessageGroup& group, const CommCall& call)
      : MessageCollective(group, call), piece_(std::max<int64_t>(1, group.chunk_bytes / item_) * item_) {
    const bool gather = call.op == CommOp::all_gather;
    int64_t sent = 0;
    int64_t received = 0;
    for (int r = 0; r < group.size(); ++r) {
      const auto i = static_cast<size_t>(r);
      sends_.push_back({gather ? 0 : sent, gather ? call.input.bytes() : call.send_counts[i] * item_});
      recvs_.push_back({received, gather ? call.input.bytes() : call.recv_counts[i] * item_});
      sent += sends_.back().bytes;
      received += recvs_.back().bytes;
      const int64_t most = std::max(sends_.back().bytes, recvs_.back().bytes);
      num_chunks_ = std::max(num_chunks_, ceil_div(most, piece_));
    }
    if (sends_[own()].bytes != recvs_[own()].bytes) {
      throw BugError({.what = "calls of the ranks don't fit: rank " + std::to_string(group.rank) +
                              " sends itself another number of elements than it expects"});
    }
  }

 protected:
  void post_first(int64_t k) override {
    for (int r = 0; r < group_.size(); ++r) {
      const Block& from = recvs_[static_cast<size_t>(r)];
      if (r == group_.rank || length(from, k) <= 0) continue;
      first_round(k).recv(group_, MessageKind::part, r, output() + from.offset + k * piece_, length(from, k));
    }
    for (int r = 0; r < group_.size(); ++r) {
      const Block& to = sends_[static_cast<size_t>(r)];
      if (r == group_.rank || length(to, k) <= 0) continue;
      first_round(k).send(group_, MessageKind::part, r, input() + to.offset + k * piece_, length(to, k));
    }
    std::byte* to = output() + recvs_[own()].offset + k * piece_;
    const std::byte* from = input() + sends_[own()].offset + k * piece_;
    if (length(sends_[own()], k) > 0 && to != from) {
      std::memcpy(to, from, static_cast<size_t>(length(sends_[own()], k)));
    }
  }

 private:
  struct Block {
    int64_t offset;
    int64_t bytes;
  };
  size_t own() const { return static_cast<size_t>(group_.rank); }
  int64_t length(const Block& block, int64_t k) const { return std::min(piece_, block.bytes - k * piece_); }

  const int64_t piece_;  // bytes
  std::vector<Block> sends_;
  std::vector<Block> recvs_;
};

// Down a binomial tree over the ranks counted from the root: v hears from v without its lowest bit.
class MessageBroadcast final : public MessageCollective {
 public:
  MessageBroadcast(const MessageGroup& group, const CommCall& call) : MessageCollective(group, call) {
    num_chunks_ = ceil_div(call.input.bytes(), group.chunk_bytes);
    const int place = (group.rank - call.root + group.size()) % group.size();
    if (place != 0) parent_ = actual(place & (place - 1));
    for (int bit = 1; (place & bit) == 0 && place + bit < group.size(); bit *= 2) {
      children_.push_back(actual(place + bit));
    }
  }

 protected:
  void post_first(int64_t k) override {
    if (parent_ >= 0) first_round(k).recv(group_, MessageKind::part, parent_, at(k), length(k));
  }
  void post_second(int64_t k) override {
    for (const int child : children_) second_round(k).send(group_, MessageKind::part, child, at(k), length(k));
  }

 private:
  int actual(int place) const { return (place + call_.root) % group_.size(); }
  std::byte* at(int64_t k) const { return output() + k * group_.chunk_bytes; }
  int64_t length(int64_t k) const { return std::min(group_.chunk_bytes, call_.input.bytes() - k * group_.chunk_bytes); }

  int parent_ = -1;
  std::vector<int> children_;
};

// In round i every rank tells the one 2^i further on, and hears from the one 2^i back.
class MessageBarrier final : public HostOp {
 public:
  explicit MessageBarrier(const MessageGroup& group) : group_(group) {}
  bool finished() const override { return distance_ >= group_.size(); }
  bool step() override {
    if (!posted_) {
      requests_.recv(group_, MessageKind::part, (group_.rank - distance_ + group_.size()) % group_.size(), nullptr, 0);
      requests_.send(group_, MessageKind::part, (group_.rank + distance_) % group_.size(), nullptr, 0);
      posted_ = true;
    }
    if (!requests_.complete()) return false;
    posted_ = false;
    distance_ *= 2;
    return true;
  }

 private:
  const MessageGroup& group_;
  MessageRequests requests_;
  int distance_ = 1;
  bool posted_ = false;
};

}  // namespace

std::unique_ptr<HostOp> make_message_collective(const MessageGroup& group, const CommCall& call) {
  switch (call.op) {
    case CommOp::all_reduce:
    case CommOp::reduce_scatter: return std::make_unique<MessageReduce>(group, call);
    case CommOp::all_gather:
    case CommOp::all_to_all:
    case CommOp::all_to_all_v: return std::make_unique<MessageExchange>(group, call);
    case CommOp::broadcast: return std::make_unique<MessageBroadcast>(group, call);
    default: return std::make_unique<MessageBarrier>(group);
  }
}

}  // namespace trireme
