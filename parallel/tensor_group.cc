#include "parallel/tensor_group.h"

#include <algorithm>

#include "core/error.h"
#include "core/ops/elementwise.h"

namespace trireme {

namespace {

// x [n, C] in front of zeros, [rows, C].
Tensor with_padding(Stream& stream, const Tensor& x, int64_t rows) {
  Tensor padded = Tensor::empty(stream, {rows, x.dim(1)}, x.dtype(), MemoryTag::communication);
  Tensor front = padded.slice(0, x.dim(0));
  if (x.dim(0) > 0) ops::copy(stream, x, front);
  Tensor rest = padded.slice(x.dim(0), rows);
  ops::fill(stream, rest, 0);
  return padded;
}

}  // namespace

TensorGroup::TensorGroup(Communicator& comm, bool sequence)
    : comm_(&comm), size_(comm.size()), rank_(comm.rank()), sequence_(sequence && comm.size() > 1) {}

TensorGroup TensorGroup::planned(int64_t size, int64_t rank, bool sequence) {
  TensorGroup group;
  group.size_ = size;
  group.rank_ = rank;
  group.sequence_ = sequence && size > 1;
  return group;
}

Communicator& TensorGroup::comm() const {
  TRIREME_CHECK(comm_ != nullptr && size_ > 1, "a tensor group of one doesn't communicate");
  return *comm_;
}

int64_t TensorGroup::first_row(int64_t num_tokens) const {
  return sequence_ ? std::min(num_tokens, rank_ * rows_per_rank(num_tokens)) : 0;
}

int64_t TensorGroup::num_rows(int64_t num_tokens) const {
  return sequence_ ? std::min(num_tokens - first_row(num_tokens), rows_per_rank(num_tokens)) : num_tokens;
}

Tensor TensorGroup::gather(Stream& stream, const Tensor& x, int64_t num_tokens) const {
  if (!sequence_) return x;
  const int64_t rows = rows_per_rank(num_tokens);
  const Tensor mine = x.dim(0) == rows ? x : with_padding(stream, x, rows);
  const Tensor all = Tensor::empty(stream, {rows * size_, x.dim(1)}, x.dtype());
  comm_->all_gather(mine, all, stream)->wait(stream);
  return all.slice(0, num_tokens);
}

Tensor TensorGroup::reduce(Stream& stream, const Tensor& x) const {
  if (size_ == 1) return x;
  if (!sequence_) {
    comm_->all_reduce(x, ReduceOp::sum, stream)->wait(stream);
    return x;
  }
  const int64_t rows = rows_per_rank(x.dim(0));
  const Tensor all = x.dim(0) == rows * size_ ? x : with_padding(stream, x, rows * size_);
  const Tensor mine = Tensor::empty(stream, {rows, x.dim(1)}, x.dtype());
  comm_->reduce_scatter(all, mine, ReduceOp::sum, stream)->wait(stream);
  return mine.slice(0, num_rows(x.dim(0)));
}

}  // namespace trireme
