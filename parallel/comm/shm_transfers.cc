#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "parallel/comm/local_transfers.h"
#include "parallel/comm/shm_transport.h"

namespace trireme {

// A grouped point-to-point call. The transfers with one peer in one direction are a lane: one after the
// other; the lanes advance independently.
class ShmTransfers final : public HostOp {
 public:
  ShmTransfers(ShmTransport& transport, const CommCall& call) : transport_(transport) {
    run_local_transfers(call, transport.rank_);
    std::map<std::pair<int, Transfer::Kind>, std::vector<const Transfer*>> lanes;
    for (const Transfer& t : call.transfers) {
      if (t.peer != transport.rank_) lanes[{t.peer, t.kind}].push_back(&t);
    }
    for (auto& [key, list] : lanes) lanes_.push_back({.peer = key.first, .kind = key.second, .transfers = list});
  }

  bool finished() const override {
    return std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.done(); });
  }

  bool step() override {
    bool progress = false;
    for (Lane& lane : lanes_) {
      if (!lane.done()) progress = advance(lane) || progress;
    }
    return progress;
  }

 private:
  struct Lane {
    int peer;
    Transfer::Kind kind;
    std::vector<const Transfer*> transfers;
    size_t next = 0;
    bool posted = false;
    bool met = false;  // both sides have announced the transfer
    int64_t moved_bytes = 0;
    bool done() const { return next == transfers.size(); }
  };

  PairControl& pair(const Lane& lane) const {
    const bool send = lane.kind == Transfer::Kind::send;
    return transport_.layout_.pair(transport_.base_, send ? transport_.rank_ : lane.peer,
                                   send ? lane.peer : transport_.rank_);
  }

  // Announces the transfer, and looks whether the other side has.
  bool meet(Lane& lane) {
    const bool send = lane.kind == Transfer::Kind::send;
    PairControl& control = pair(lane);
    int64_t& sequence = (send ? transport_.num_sends_ : transport_.num_recvs_)[static_cast<size_t>(lane.peer)];
    const int64_t bytes = lane.transfers[lane.next]->tensor.bytes();
    bool progress = false;
    if (!lane.posted) {
      (send ? control.send_bytes : control.recv_bytes)[sequence % 2] = bytes;
      (send ? control.sends_posted : control.recvs_posted).store(sequence + 1, std::memory_order_release);
      transport_.doorbells_[static_cast<size_t>(lane.peer)]->ring();
      lane.posted = progress = true;
    }
    const auto& others = send ? control.recvs_posted : control.sends_posted;
    if (others.load(std::memory_order_acquire) <= sequence) return progress;
    const int64_t theirs = (send ? control.recv_bytes : control.send_bytes)[sequence % 2];
    ++sequence;
    if (theirs != bytes) {
      throw BugError({.what = "calls of the ranks don't fit: rank " + std::to_string(transport_.rank_) +
                              (send ? " sends " : " expects ") + std::to_string(bytes) + " bytes, rank " +
                              std::to_string(lane.peer) + (send ? " expects " : " sends ") + std::to_string(theirs)});
    }
    lane.met = true;
    return true;
  }

  bool advance(Lane& lane) {
    bool progress = false;
    if (!lane.met) {
      progress = meet(lane);
      if (!lane.met) return progress;
    }
    const Tensor& tensor = lane.transfers[lane.next]->tensor;
    if (lane.moved_bytes < tensor.bytes()) progress = move_chunk(lane, tensor) || progress;
    if (lane.moved_bytes == tensor.bytes()) {
      ++lane.next;
      lane.posted = lane.met = false;
      lane.moved_bytes = 0;
    }
    return progress;
  }

  bool move_chunk(Lane& lane, const Tensor& tensor) {
    const ShmLayout& layout = transport_.layout_;
    PairControl& control = pair(lane);
    const auto peer = static_cast<size_t>(lane.peer);
    std::byte* place = static_cast<std::byte*>(tensor.raw()) + lane.moved_bytes;
    const int64_t bytes = std::min(layout.ring_bytes, tensor.bytes() - lane.moved_bytes);
    if (lane.kind == Transfer::Kind::send) {
      int64_t& chunk = transport_.num_ring_chunks_sent_[peer];
      if (control.read.load(std::memory_order_acquire) + ShmLayout::kNumRingSlots <= chunk) return false;
      std::memcpy(layout.ring_slot(transport_.base_, transport_.rank_, lane.peer, chunk), place,
                  static_cast<size_t>(bytes));
      control.written.store(++chunk, std::memory_order_release);
    } else {
      int64_t& chunk = transport_.num_ring_chunks_read_[peer];
      if (control.written.load(std::memory_order_acquire) <= chunk) return false;
      std::memcpy(place, layout.ring_slot(transport_.base_, lane.peer, transport_.rank_, chunk),
                  static_cast<size_t>(bytes));
      control.read.store(++chunk, std::memory_order_release);
    }
    lane.moved_bytes += bytes;
    transport_.doorbells_[peer]->ring();
    return true;
  }

  ShmTransport& transport_;
  std::vector<Lane> lanes_;
};

std::unique_ptr<HostOp> make_shm_transfers(ShmTransport& transport, const CommCall& call) {
  return std::make_unique<ShmTransfers>(transport, call);
}

}  // namespace trireme
