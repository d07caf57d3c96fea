// Ranks of one node meet in shared memory.
//
// Collectives are pipelines of chunks with three stages on every rank, each gated by the others' counters:
//   produce(k)  copy what others need of chunk k into my slot
//   reduce(k)   add my piece of chunk k over all slots in rank order, my own part straight from my tensor
//   consume(k)  read what I need from the others' slots
// With two ranks an all-reduce thus copies half of its input, adds the other rank's half out of the cache, and
// copies half of the result.
//
// A transfer is announced by both sides before a byte moves (rendezvous), then streams through a ring.
#pragma once

#include <memory>
#include <vector>

#include "parallel/comm/doorbell.h"
#include "parallel/comm/shm_layout.h"
#include "parallel/comm/transport.h"

namespace trireme {

class ShmTransport final : public Transport {
 public:
  // `base`: layout.total_bytes of shared memory, zeros at first. `doorbells`: one for each rank. Both outlive this.
  ShmTransport(int rank, const ShmLayout& layout, std::byte* base, std::vector<Doorbell*> doorbells);
  std::unique_ptr<HostOp> start(const CommCall& call) override;
  bool needs_polling() const override { return false; }

 private:
  friend class ShmCollective;
  friend class ShmTransfers;
  RankControl& control(int rank) const { return layout_.control(base_, rank); }
  void ring_all() const;

  const int rank_;
  const ShmLayout layout_;
  std::byte* const base_;
  const std::vector<Doorbell*> doorbells_;
  int64_t num_collectives_ = 0;
  std::vector<int64_t> num_sends_;  // by peer
  std::vector<int64_t> num_recvs_;
  std::vector<int64_t> num_ring_chunks_sent_;  // by peer: the counters of the pairs, as this rank has moved them
  std::vector<int64_t> num_ring_chunks_read_;
};

std::unique_ptr<HostOp> make_shm_collective(ShmTransport& transport, const CommCall& call, int64_t sequence);
std::unique_ptr<HostOp> make_shm_transfers(ShmTransport& transport, const CommCall& call);

}  // namespace trireme
