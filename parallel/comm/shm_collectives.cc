#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "parallel/comm/reduce.h"
#include "parallel/comm/shm_transport.h"

namespace trireme {

namespace {

constexpr int64_t kPieceAlignment = 64;  // bytes; pieces of different ranks share no cache line

void copy_bytes(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// One collective: the order of stages, counters and agreement. What the stages do is the derived class's.
class ShmCollective : public HostOp {
 public:
  ShmCollective(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : transport_(transport),
        call_(call),
        sequence_(sequence),
        rank_(transport.rank_),
        size_(transport.layout_.size),
        item_(dtype_bytes(call.input.dtype())),
        slot_bytes_(transport.layout_.slot_bytes) {}

  bool finished() const final { return finished_; }
  bool step() final;

 protected:
  virtual void produce(int64_t) {}
  virtual void reduce(int64_t) {}
  virtual void consume(int64_t) {}
  virtual bool can_consume(int64_t chunk) { return all_have(&RankControl::produced, chunk); }

  bool has(int rank, std::atomic<int64_t> RankControl::*counter, int64_t chunk) const {
    return (transport_.control(rank).*counter).load(std::memory_order_acquire) > mark(chunk);
  }
  bool all_have(std::atomic<int64_t> RankControl::*counter, int64_t chunk) const {
    for (int r = 0; r < size_; ++r) {
      if (r != rank_ && !has(r, counter, chunk)) return false;
    }
    return true;
  }
  std::byte* slot(int rank, int64_t chunk) const { return transport_.layout_.slot(transport_.base_, rank, chunk); }
  std::byte* input() const { return static_cast<std::byte*>(call_.input.raw()); }
  std::byte* output() const { return static_cast<std::byte*>(call_.output.raw()); }
  // Elements of a piece, when a slot is shared out among the ranks.
  int64_t piece_numel() const { return slot_bytes_ / size_ / kPieceAlignment * kPieceAlignment / item_; }

  ShmTransport& transport_;
  const CommCall& call_;
  const int64_t sequence_;
  const int rank_;
  const int size_;
  const int64_t item_;  // bytes of an element
  const int64_t slot_bytes_;
  int64_t num_to_produce_ = 0;
  bool reduces_ = false;  // there is a reduce stage: as many chunks as are produced
  int64_t num_to_consume_ = 0;

 private:
  int64_t mark(int64_t chunk) const { return sequence_ << 32 | chunk; }
  bool open();
  bool check_agreement();
  void publish(std::atomic<int64_t> RankControl::*counter, int64_t chunks) {
    (transport_.control(rank_).*counter).store(mark(chunks), std::memory_order_release);
    transport_.ring_all();
  }
  void close();

  static constexpr int64_t kAllChunks = 0xFFFFFFFF;
  bool open_ = false;
  bool agreed_ = false;
  bool needs_no_more_ = false;  // and has told the others
  bool finished_ = false;
  int64_t produced_ = 0;
  int64_t reduced_ = 0;
  int64_t consumed_ = 0;
};

// The slots are free again, and the signature's place is, when all ranks have finished the call before.
bool ShmCollective::open() {
  for (int r = 0; r < size_; ++r) {
    if (transport_.control(r).consumed.load(std::memory_order_acquire) < mark(0)) return false;
  }
  RankControl& mine = transport_.control(rank_);
  mine.signature[sequence_ % 2] = {.op = static_cast<int32_t>(call_.op),
                                   .reduce = static_cast<int32_t>(call_.reduce),
                                   .dtype = static_cast<int32_t>(call_.input.dtype()),
                                   .root = call_.root,
                                   .input_numel = call_.op == CommOp::all_to_all_v ? 0 : call_.input.numel(),
                                   .output_numel = call_.op == CommOp::all_to_all_v ? 0 : call_.output.numel()};
  if (!call_.send_counts.empty()) {
    int64_t* counts = transport_.layout_.counts(transport_.base_, rank_, sequence_);
    std::copy(call_.send_counts.begin(), call_.send_counts.end(), counts);
    std::copy(call_.recv_counts.begin(), call_.recv_counts.end(), counts + size_);
  }
  mine.arrived.store(sequence_ + 1, std::memory_order_release);
  transport_.ring_all();
  open_ = true;
  return true;
}

// Every rank sees all signatures, so either all fail here or none does.
bool ShmCollective::check_agreement() {
  for (int r = 0; r < size_; ++r) {
    if (transport_.control(r).arrived.load(std::memory_order_acquire) <= sequence_) return false;
  }
  agreed_ = true;
  std::string mismatch;
  const CallSignature& first = transport_.control(0).signature[sequence_ % 2];
  for (int r = 1; r < size_ && mismatch.empty(); ++r) {
    const CallSignature& other = transport_.control(r).signature[sequence_ % 2];
    if (first == other) continue;
    const auto text = [](const CallSignature& s) {
      return comm_op_name(static_cast<CommOp>(s.op)) + " of " + std::to_string(s.input_numel) + " " +
             dtype_name(static_cast<DType>(s.dtype)) + " (op " + std::to_string(s.reduce) + ", root " +
             std::to_string(s.root) + ")";
    };
    mismatch = "rank 0 called " + text(first) + ", rank " + std::to_string(r) + " called " + text(other);
  }
  for (int from = 0; call_.op == CommOp::all_to_all_v && from < size_ && mismatch.empty(); ++from) {
    for (int to = 0; to < size_; ++to) {
      const int64_t sent = transport_.layout_.counts(transport_.base_, from, sequence_)[to];
      const int64_t expected = transport_.layout_.counts(transport_.base_, to, sequence_)[size_ + from];
      if (sent == expected) continue;
      mismatch = "rank " + std::to_string(from) + " sends " + std::to_string(sent) + " elements to rank " +
                 std::to_string(to) + ", which expects " + std::to_string(expected);
    }
  }
  if (mismatch.empty()) return true;
  close();
  throw BugError({.what = "calls of the ranks don't fit: " + mismatch});
}

void ShmCollective::close() {
  transport_.control(rank_).consumed.store((sequence_ + 1) << 32, std::memory_order_release);
  transport_.ring_all();
  finished_ = true;
}

// Later stages first: what they touch is still in the cache. `consumed` tells the others that this rank is done with
// their slots and `produced` that it may write its own, so no stage of a chunk may overtake the one before.
bool ShmCollective::step() {
  if (!open_ && !open()) return false;
  bool progress = false;
  if (!agreed_) progress = check_agreement();
  const int64_t consumable = reduces_ ? reduced_ : num_to_consume_;
  if (agreed_ && consumed_ < consumable && can_consume(consumed_)) {
    consume(consumed_);
    publish(&RankControl::consumed, ++consumed_);
    progress = true;
  } else if (agreed_ && reduces_ && reduced_ < produced_ && all_have(&RankControl::produced, reduced_)) {
    reduce(reduced_);
    publish(&RankControl::reduced, ++reduced_);
    progress = true;
  } else if (produced_ < num_to_produce_ &&
             (produced_ < ShmLayout::kNumSlots || all_have(&RankControl::consumed, produced_ - ShmLayout::kNumSlots))) {
    produce(produced_);
    publish(&RankControl::produced, ++produced_);
    progress = true;
  }
  // Others may have more chunks for each other than for this rank; they need not wait for it.
  if (agreed_ && !needs_no_more_ && consumed_ == num_to_consume_) {
    publish(&RankControl::consumed, kAllChunks);
    needs_no_more_ = true;
  }
  const bool reduced_all = !reduces_ || reduced_ == num_to_produce_;
  if (agreed_ && produced_ == num_to_produce_ && reduced_all && consumed_ == num_to_consume_) close();
  return progress || finished_;
}

namespace {

// Chunk k is a stretch of the tensor; rank r owns the r-th piece of it.
class ShmAllReduce final : public ShmCollective {
 public:
  ShmAllReduce(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : ShmCollective(transport, call, sequence), chunk_(piece_numel() * size_), inputs_(static_cast<size_t>(size_)) {
    num_to_produce_ = num_to_consume_ = ceil_div(call.input.numel(), chunk_);
    reduces_ = true;
  }

 protected:
  bool can_consume(int64_t chunk) override { return all_have(&RankControl::reduced, chunk); }

  void produce(int64_t k) override {
    for (int owner = 0; owner < size_; ++owner) {
      if (owner == rank_) continue;
      const Piece p = piece(k, owner);
      copy_bytes(slot(rank_, k) + p.in_slot, input() + p.in_tensor, p.numel * item_);
    }
  }

  void reduce(int64_t k) override {
    const Piece p = piece(k, rank_);
    for (int r = 0; r < size_; ++r) {
      inputs_[static_cast<size_t>(r)] = r == rank_ ? input() + p.in_tensor : slot(r, k) + p.in_slot;
    }
    reduce_in_rank_order(call_.input.dtype(), call_.reduce, inputs_, output() + p.in_tensor, p.numel);
    copy_bytes(slot(rank_, k) + p.in_slot, output() + p.in_tensor, p.numel * item_);
  }

  void consume(int64_t k) override {
    for (int owner = 0; owner < size_; ++owner) {
      if (owner == rank_) continue;
      const Piece p = piece(k, owner);
      copy_bytes(output() + p.in_tensor, slot(owner, k) + p.in_slot, p.numel * item_);
    }
  }

 private:
  struct Piece {
    int64_t in_tensor;  // bytes
    int64_t in_slot;    // bytes
    int64_t numel;
  };
  Piece piece(int64_t k, int owner) const {
    const int64_t begin = k * chunk_;
    const int64_t n = std::min(chunk_, call_.input.numel() - begin);
    const int64_t aligned = kPieceAlignment / item_;
    const int64_t share = ceil_div(ceil_div(n, size_), aligned) * aligned;
    const int64_t first = std::min(n, owner * share);
    return {(begin + first) * item_, first * item_, std::min(n, first + share) - first};
  }

  const int64_t chunk_;  // elements
  std::vector<const void*> inputs_;
};

class ShmReduceScatter final : public ShmCollective {
 public:
  ShmReduceScatter(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : ShmCollective(transport, call, sequence), inputs_(static_cast<size_t>(size_)) {
    num_to_produce_ = num_to_consume_ = ceil_div(call.output.numel(), piece_numel());
  }

 protected:
  void produce(int64_t k) override {
    for (int owner = 0; owner < size_; ++owner) {
      if (owner == rank_) continue;
      copy_bytes(slot(rank_, k) + owner * piece_numel() * item_, input() + offset(k, owner), numel(k) * item_);
    }
  }

  void consume(int64_t k) override {
    for (int r = 0; r < size_; ++r) {
      inputs_[static_cast<size_t>(r)] =
          r == rank_ ? input() + offset(k, rank_) : slot(r, k) + rank_ * piece_numel() * item_;
    }
    reduce_in_rank_order(call_.input.dtype(), call_.reduce, inputs_, output() + k * piece_numel() * item_, numel(k));
  }

 private:
  int64_t offset(int64_t k, int owner) const { return (owner * call_.output.numel() + k * piece_numel()) * item_; }
  int64_t numel(int64_t k) const { return std::min(piece_numel(), call_.output.numel() - k * piece_numel()); }

  std::vector<const void*> inputs_;
};

class ShmAllGather final : public ShmCollective {
 public:
  ShmAllGather(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : ShmCollective(transport, call, sequence), block_(call.input.bytes()) {
    num_to_produce_ = num_to_consume_ = ceil_div(block_, slot_bytes_);
  }

 protected:
  void produce(int64_t k) override { copy_bytes(slot(rank_, k), input() + k * slot_bytes_, length(k)); }
  void consume(int64_t k) override {
    for (int r = 0; r < size_; ++r) {
      const std::byte* from = r == rank_ ? input() + k * slot_bytes_ : slot(r, k);
      copy_bytes(output() + r * block_ + k * slot_bytes_, from, length(k));
    }
  }

 private:
  int64_t length(int64_t k) const { return std::min(slot_bytes_, block_ - k * slot_bytes_); }

  const int64_t block_;  // bytes
};

class ShmAllToAll final : public ShmCollective {
 public:
  ShmAllToAll(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : ShmCollective(transport, call, sequence), piece_(piece_numel() * item_) {
    int64_t sent = 0;
    int64_t received = 0;
    for (int r = 0; r < size_; ++r) {
      const auto i = static_cast<size_t>(r);
      sends_.push_back({sent, call.send_counts[i] * item_});
      recvs_.push_back({received, call.recv_counts[i] * item_});
      sent += sends_.back().bytes;
      received += recvs_.back().bytes;
      if (r != rank_) num_to_produce_ = std::max(num_to_produce_, ceil_div(sends_.back().bytes, piece_));
      num_to_consume_ = std::max(num_to_consume_, ceil_div(recvs_.back().bytes, piece_));
    }
  }

 protected:
  bool can_consume(int64_t k) override {
    for (int r = 0; r < size_; ++r) {
      if (r != rank_ && recvs_[static_cast<size_t>(r)].bytes > k * piece_ && !has(r, &RankControl::produced, k)) {
        return false;
      }
    }
    return true;
  }
  void produce(int64_t k) override {
    for (int r = 0; r < size_; ++r) {
      const Block& block = sends_[static_cast<size_t>(r)];
      if (r != rank_) copy_bytes(slot(rank_, k) + r * piece_, input() + block.offset + k * piece_, length(block, k));
    }
  }
  void consume(int64_t k) override {
    for (int r = 0; r < size_; ++r) {
      const Block& block = recvs_[static_cast<size_t>(r)];
      const std::byte* from =
          r == rank_ ? input() + sends_[static_cast<size_t>(r)].offset + k * piece_ : slot(r, k) + rank_ * piece_;
      copy_bytes(output() + block.offset + k * piece_, from, length(block, k));
    }
  }

 private:
  struct Block {
    int64_t offset;
    int64_t bytes;
  };
  int64_t length(const Block& block, int64_t k) const { return std::min(piece_, block.bytes - k * piece_); }

  const int64_t piece_;  // bytes
  std::vector<Block> sends_;
  std::vector<Block> recvs_;
};

class ShmBroadcast final : public ShmCollective {
 public:
  ShmBroadcast(ShmTransport& transport, const CommCall& call, int64_t sequence)
      : ShmCollective(transport, call, sequence) {
    (call.root == rank_ ? num_to_produce_ : num_to_consume_) = ceil_div(call.input.bytes(), slot_bytes_);
  }

 protected:
  bool can_consume(int64_t k) override { return has(call_.root, &RankControl::produced, k); }
  void produce(int64_t k) override { copy_bytes(slot(rank_, k), input() + k * slot_bytes_, length(k)); }
  void consume(int64_t k) override { copy_bytes(output() + k * slot_bytes_, slot(call_.root, k), length(k)); }

 private:
  int64_t length(int64_t k) const { return std::min(slot_bytes_, call_.input.bytes() - k * slot_bytes_); }
};

}  // namespace

std::unique_ptr<HostOp> make_shm_collective(ShmTransport& transport, const CommCall& call, int64_t sequence) {
  switch (call.op) {
    case CommOp::all_reduce: return std::make_unique<ShmAllReduce>(transport, call, sequence);
    case CommOp::reduce_scatter: return std::make_unique<ShmReduceScatter>(transport, call, sequence);
    case CommOp::all_gather: return std::make_unique<ShmAllGather>(transport, call, sequence);
    case CommOp::all_to_all:
    case CommOp::all_to_all_v: return std::make_unique<ShmAllToAll>(transport, call, sequence);
    case CommOp::broadcast: return std::make_unique<ShmBroadcast>(transport, call, sequence);
    default: return std::make_unique<ShmCollective>(transport, call, sequence);
  }
}

}  // namespace trireme
