// The shared memory of one group on one node: who has got how far, and the buffers through which data passes.
//
//   RankControl[p]            progress of each rank's collectives
//   int64 counts[p][2][2p]    what each rank sends and receives in all_to_all_v, for two calls in turn
//   PairControl[p][p]         progress of the transfers from one rank to another
//   slots[p][kNumSlots]       written by their rank only, read by all: collectives
//   rings[p][p][kNumRingSlots]   written by the sender, read by the receiver
//
// All counters only grow. A counter of chunks in collective s is s << 32 | chunks, so that "has finished
// chunk k of call s" is one comparison, true for a rank that is further on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace trireme {

// What all ranks must agree on in a collective.
struct CallSignature {
  int32_t op = 0;
  int32_t reduce = 0;
  int32_t dtype = 0;
  int32_t root = 0;
  int64_t input_numel = 0;
  int64_t output_numel = 0;
  bool operator==(const CallSignature&) const = default;
};

struct RankControl {
  alignas(64) std::atomic<int64_t> arrived;   // collectives begun; the signature of the last is there
  alignas(64) std::atomic<int64_t> produced;  // chunks in this rank's slots
  alignas(64) std::atomic<int64_t> reduced;   // chunks of which this rank's piece of the result is in its slots
  alignas(64) std::atomic<int64_t> consumed;  // chunks that this rank has read from all others' slots
  alignas(64) CallSignature signature[2];     // of call s at s % 2: no rank is more than one call ahead
};

struct PairControl {
  alignas(64) std::atomic<int64_t> sends_posted;
  int64_t send_bytes[2];  // of transfer s at s % 2
  std::atomic<int64_t> written;
  alignas(64) std::atomic<int64_t> recvs_posted;
  int64_t recv_bytes[2];
  std::atomic<int64_t> read;
};

struct ShmLayout {
  static constexpr int64_t kNumSlots = 4;
  static constexpr int64_t kNumRingSlots = 4;

  int size = 1;            // ranks
  int64_t slot_bytes = 0;  // multiple of 4096, at least 64 per rank
  int64_t ring_bytes = 0;  // of one slot of a ring
  int64_t counts_offset = 0;
  int64_t pairs_offset = 0;
  int64_t slots_offset = 0;
  int64_t rings_offset = 0;
  int64_t total_bytes = 0;

  ShmLayout(int num_ranks, int64_t chunk_bytes) : size(num_ranks) {
    constexpr int64_t kAll = int64_t{16} << 20;  // the slots of a large group share this much, if they can
    const int64_t p = num_ranks;
    slot_bytes = round_page(std::max({int64_t{4096}, 64 * p, std::min(chunk_bytes, kAll / (kNumSlots * p))}));
    ring_bytes = round_page(std::max<int64_t>(4096, std::min(chunk_bytes / 2, kAll / (kNumRingSlots * p * p))));
    counts_offset = round_page(p * static_cast<int64_t>(sizeof(RankControl)));
    pairs_offset = round_page(counts_offset + p * 2 * 2 * p * static_cast<int64_t>(sizeof(int64_t)));
    slots_offset = round_page(pairs_offset + p * p * static_cast<int64_t>(sizeof(PairControl)));
    rings_offset = slots_offset + p * kNumSlots * slot_bytes;
    total_bytes = rings_offset + p * p * kNumRingSlots * ring_bytes;
  }

  RankControl& control(std::byte* base, int rank) const { return *(reinterpret_cast<RankControl*>(base) + rank); }
  // [2p]: sent to each rank, then received from each rank.
  int64_t* counts(std::byte* base, int rank, int64_t call) const {
    return reinterpret_cast<int64_t*>(base + counts_offset) + (rank * 2 + call % 2) * 2 * size;
  }
  PairControl& pair(std::byte* base, int from, int to) const {
    return *(reinterpret_cast<PairControl*>(base + pairs_offset) + from * size + to);
  }
  std::byte* slot(std::byte* base, int rank, int64_t chunk) const {
    return base + slots_offset + (rank * kNumSlots + chunk % kNumSlots) * slot_bytes;
  }
  std::byte* ring_slot(std::byte* base, int from, int to, int64_t chunk) const {
    return base + rings_offset + ((from * size + to) * kNumRingSlots + chunk % kNumRingSlots) * ring_bytes;
  }

 private:
  static int64_t round_page(int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }
};

}  // namespace trireme
