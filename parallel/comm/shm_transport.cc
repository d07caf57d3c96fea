#include "parallel/comm/shm_transport.h"

#include <utility>

namespace trireme {

ShmTransport::ShmTransport(int rank, const ShmLayout& layout, std::byte* base, std::vector<Doorbell*> doorbells)
    : rank_(rank),
      layout_(layout),
      base_(base),
      doorbells_(std::move(doorbells)),
      num_sends_(static_cast<size_t>(layout.size)),
      num_recvs_(static_cast<size_t>(layout.size)),
      num_ring_chunks_sent_(static_cast<size_t>(layout.size)),
      num_ring_chunks_read_(static_cast<size_t>(layout.size)) {}

std::unique_ptr<HostOp> ShmTransport::start(const CommCall& call) {
  if (call.op == CommOp::send) return make_shm_transfers(*this, call);
  return make_shm_collective(*this, call, num_collectives_++);
}

void ShmTransport::ring_all() const {
  for (size_t r = 0; r < doorbells_.size(); ++r) {
    if (static_cast<int>(r) != rank_) doorbells_[r]->ring();
  }
}

}  // namespace trireme
