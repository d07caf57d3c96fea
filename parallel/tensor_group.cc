#include "parallel/tensor_group.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/ops/elementwise.h"

namespace trireme {

namespace {

int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

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

TensorGroup::TensorGroup(Communicator& comm, bool sequence, int64_t num_chunks)
    : comm_(&comm),
      size_(comm.size()),
      rank_(comm.rank()),
      sequence_(sequence && comm.size() > 1),
      num_chunks_(comm.size() > 1 ? num_chunks : 1) {
  TRIREME_CHECK(num_chunks >= 1, "products are made in one chunk at least");
}

TensorGroup TensorGroup::planned(int64_t size, int64_t rank, bool sequence) {
  TensorGroup group;
  group.size_ = size;
  group.rank_ = rank;
  group.sequence_ = sequence && size > 1;
  return group;
}

TensorGroup TensorGroup::cut_along_tokens() const {
  TensorGroup group = *this;
  group.sequence_ = size_ > 1;
  group.num_chunks_ = 1;
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

TensorGroup::Rows TensorGroup::stretch(int64_t rank, int64_t num_tokens, int64_t begin, int64_t end) const {
  const int64_t first = rank * rows_per_rank(num_tokens);
  return {std::min(first + begin, num_tokens), std::min(first + end, num_tokens)};
}

Tensor TensorGroup::gather(Stream& stream, const Tensor& x, int64_t num_tokens, const RowWork& work) const {
  if (!sequence_ || num_chunks_ == 1 || num_tokens == 0) {
    Tensor whole = gather(stream, x, num_tokens);
    if (num_tokens > 0) work(0, num_tokens, whole);
    return whole;
  }
  const int64_t rows = rows_per_rank(num_tokens);
  const int64_t chunk = ceil_div(rows, ceil_div(num_chunks_, size_));
  Tensor whole = Tensor::empty(stream, {num_tokens, x.dim(1)}, x.dtype());
  struct Arrival {
    WorkHandle transfer;
    Rows rows;
  };
  std::vector<Arrival> arrivals;
  for (int64_t step = 1; step < size_; ++step) {
    const int64_t from = (rank_ + step) % size_;
    const int64_t to = (rank_ + size_ - step) % size_;
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t end = std::min(begin + chunk, rows);
      const Rows in = stretch(from, num_tokens, begin, end);
      const Tensor out = x.slice(std::min(begin, x.dim(0)), std::min(end, x.dim(0)));
      arrivals.push_back({comm_->send_recv({Transfer::send(out, static_cast<int>(to)),
                                            Transfer::recv(whole.slice(in.begin, in.end), static_cast<int>(from))},
                                           stream),
                          in});
    }
  }
  const auto work_on = [&](const Rows& part) {
    if (part.size() == 0) return;
    Tensor part_rows = whole.slice(part.begin, part.end);
    work(part.begin, part.end, part_rows);
  };
  const Rows own = stretch(rank_, num_tokens, 0, rows);
  Tensor mine = whole.slice(own.begin, own.end);
  ops::copy(stream, x, mine);
  work_on(own);
  for (const Arrival& arrival : arrivals) {
    arrival.transfer->wait(stream);
    work_on(arrival.rows);
  }
  return whole;
}

// summands [size·(end − begin), columns]: stretch [begin, end) of every rank's rows, zeros where there are no tokens.
void TensorGroup::write_summands(Stream& stream, int64_t num_tokens, int64_t begin, int64_t end, Tensor& summands,
                                 const RowWork& work) const {
  const auto write = [&](const Rows& tokens, int64_t at, int64_t at_end) {
    Tensor rows = summands.slice(at, at + tokens.size());
    if (tokens.size() > 0) work(tokens.begin, tokens.end, rows);
    Tensor rest = summands.slice(at + tokens.size(), at_end);
    if (rest.dim(0) > 0) ops::fill(stream, rest, 0);
  };
  const int64_t length = end - begin;
  if (length == rows_per_rank(num_tokens)) {  // one rank's follow the other's
    return write({0, num_tokens}, 0, size_ * length);
  }
  for (int64_t r = 0; r < size_; ++r) write(stretch(r, num_tokens, begin, end), r * length, (r + 1) * length);
}

Tensor TensorGroup::reduce(Stream& stream, int64_t num_tokens, int64_t columns, DType dtype,
                           const RowWork& work) const {
  const int64_t rows = sequence_ ? rows_per_rank(num_tokens) : num_tokens;
  const int64_t chunk = ceil_div(rows, num_chunks_);
  Tensor y = Tensor::empty(stream, {rows, columns}, dtype);
  std::vector<WorkHandle> sums;
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t end = std::min(begin + chunk, rows);
    Tensor part = y.slice(begin, end);
    if (sequence_) {
      Tensor summands = Tensor::empty(stream, {size_ * (end - begin), columns}, dtype, MemoryTag::communication);
      write_summands(stream, num_tokens, begin, end, summands, work);
      sums.push_back(comm_->reduce_scatter(summands, part, ReduceOp::sum, stream));
    } else {
      work(begin, end, part);
      if (size_ > 1) sums.push_back(comm_->all_reduce(part, ReduceOp::sum, stream));
    }
  }
  for (const WorkHandle& sum : sums) sum->wait(stream);
  return sequence_ ? y.slice(0, num_rows(num_tokens)) : y;
}

}  // namespace trireme
