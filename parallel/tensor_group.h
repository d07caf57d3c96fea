// Tensor parallelism as layers see it: the ranks that share each layer's matrices, and the two ways between activations
// that are cut along the tokens and those that are whole.
//
// A block's matrices are cut over the group: column-parallel ones (q, k, v, gate, up) by their outputs, row-parallel ones
// (attention output, down) by their inputs, so that each rank makes a summand of the block's output. Around the blocks
// hidden states are whole on every rank, or, with sequence parallelism, cut along the tokens: rank r holds rows
// [r·L, min(N, (r+1)·L)) of the N = B·T rows, L = ceil(N / size); the last ranks may hold fewer, or none.
// (Shoeybi et al. 2019; Korthikanti et al. 2022. Ours cuts the flat token dim, since nothing between the blocks
// looks at more than one token; so no sequence length needs padding.)
//
//   forward                       backward of it
//   gather: [rows, C] -> [N, C]   reduce
//   reduce: [N, C] -> [rows, C]   gather
//
// Calls are collective over the group. They queue on `stream`; the host waits only where the device is the CPU.
#pragma once

#include "parallel/comm/communicator.h"

namespace trireme {

class TensorGroup {
 public:
  TensorGroup() = default;  // one rank, no communication
  // `comm` outlives the group.
  TensorGroup(Communicator& comm, bool sequence);
  // What rank `rank` of `size` would have; for plans, it can't communicate.
  static TensorGroup planned(int64_t size, int64_t rank, bool sequence);

  int64_t size() const { return size_; }
  int64_t rank() const { return rank_; }
  // What is held whole by every rank, and added once (biases behind a sum), is added by this one.
  bool is_first() const { return rank_ == 0; }
  bool sequence() const { return sequence_; }  // hidden states are cut along the tokens
  Communicator& comm() const;                  // REQUIRES: size() > 1

  // Of N tokens, what this rank holds between the blocks.
  int64_t first_row(int64_t num_tokens) const;
  int64_t num_rows(int64_t num_tokens) const;

  // All rows of a hidden state: x [num_rows(N), C] -> [N, C]. x itself without sequence parallelism.
  Tensor gather(Stream& stream, const Tensor& x, int64_t num_tokens) const;
  // The sum over the group of everybody's x [N, C], of which this rank keeps its rows: [num_rows(N), C]. May overwrite
  // and return x.
  Tensor reduce(Stream& stream, const Tensor& x) const;

 private:
  int64_t rows_per_rank(int64_t num_tokens) const { return (num_tokens + size_ - 1) / size_; }

  Communicator* comm_ = nullptr;
  int64_t size_ = 1;
  int64_t rank_ = 0;
  bool sequence_ = false;
};

}  // namespace trireme
