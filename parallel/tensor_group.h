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
// A product next to a gather or a reduce can be made chunk by chunk, so that one chunk is computed while another
// travels: the forms with `RowWork`, and `parallel/tensor_products.h` made of them. The work must treat every row alike
// and alone, as a linear layer does.
//
// Calls are collective over the group. They queue on `stream`; the host waits only where the device is the CPU.
#pragma once

#include <functional>
#include <vector>

#include "parallel/comm/communicator.h"

namespace trireme {

// What is done with rows [begin, end) of the N tokens; `rows` holds exactly those. Never called with no rows.
using RowWork = std::function<void(int64_t begin, int64_t end, Tensor& rows)>;

class TensorGroup {
 public:
  TensorGroup() = default;  // one rank, no communication
  // `comm` outlives the group. `num_chunks` >= 1: into how many parts the forms with RowWork are cut; 1: no overlap.
  TensorGroup(Communicator& comm, bool sequence, int64_t num_chunks = 1);
  // What rank `rank` of `size` would have; for plans, it can't communicate.
  static TensorGroup planned(int64_t size, int64_t rank, bool sequence);

  int64_t size() const { return size_; }
  int64_t rank() const { return rank_; }
  // What is held whole by every rank, and added once (biases behind a sum), is added by this one.
  bool is_first() const { return rank_ == 0; }
  bool sequence() const { return sequence_; }  // hidden states are cut along the tokens
  Communicator& comm() const;                  // REQUIRES: size() > 1
  // The same ranks with hidden states cut along the tokens: for layers that share out the tokens in any case (experts).
  TensorGroup cut_along_tokens() const;

  // Of N tokens, what this rank holds between the blocks.
  int64_t first_row(int64_t num_tokens) const;
  int64_t num_rows(int64_t num_tokens) const;
  // L: the most that a rank holds of what is cut along the tokens.
  int64_t rows_per_rank(int64_t num_tokens) const { return (num_tokens + size_ - 1) / size_; }

  // All rows of a hidden state: x [num_rows(N), C] -> [N, C]. x itself without sequence parallelism.
  Tensor gather(Stream& stream, const Tensor& x, int64_t num_tokens) const;
  // The sum over the group of everybody's x [N, C], of which this rank keeps its rows: [num_rows(N), C]. May overwrite
  // and return x.
  Tensor reduce(Stream& stream, const Tensor& x) const;

  // gather(x), which is returned, and `work` on its rows as they arrive, so that all N are worked on once. With chunks
  // these are the rows of one rank each, its own first and then those of the ranks behind it in turn, from whom they come
  // directly; with more chunks than ranks, equal stretches of them. The bytes that travel, and where the results lie, are
  // those of one gather.
  Tensor gather(Stream& stream, const Tensor& x, int64_t num_tokens, const RowWork& work) const;
  // reduce(y) of the y [N, columns] that `work` writes, each of its rows once; chunk k is summed while chunk k + 1 is
  // written. With sequence parallelism a reduce-scatter hands each rank a part of its own rows, so chunk k consists of the
  // k-th stretch of *every* rank's L rows, in rank order: `work` is called once for each rank. Else chunks are stretches of
  // the N rows. Each element is summed as without chunks: the same bits, where sums run in rank order (communicator.h).
  Tensor reduce(Stream& stream, int64_t num_tokens, int64_t columns, DType dtype, const RowWork& work) const;

 private:
  struct Rows {
    int64_t begin;
    int64_t end;
    int64_t size() const { return end - begin; }
  };
  // Stretch [begin, end) of the L rows of a rank, less what lies behind the last token.
  Rows stretch(int64_t rank, int64_t num_tokens, int64_t begin, int64_t end) const;
  void write_summands(Stream& stream, int64_t num_tokens, int64_t begin, int64_t end, Tensor& summands,
                      const RowWork& work) const;

  Communicator* comm_ = nullptr;
  int64_t size_ = 1;
  int64_t rank_ = 0;
  bool sequence_ = false;
  int64_t num_chunks_ = 1;
};

}  // namespace trireme
