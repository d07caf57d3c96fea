#include "parallel/comm/communicator.h"

#include <algorithm>
#include <utility>

#include "core/trace/tracer.h"

namespace trireme {

namespace {

std::string tensor_str(const Tensor& tensor) { return dtype_name(tensor.dtype()) + tensor.shape().str(); }

std::string reduce_op_name(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return "sum";
    case ReduceOp::max: return "max";
    case ReduceOp::min: return "min";
  }
  return "?";
}

// Whether the two share memory in another way than `part` being block `rank` of `whole`.
bool overlaps_wrongly(const Tensor& whole, const Tensor& part, int rank) {
  if (whole.bytes() == 0 || part.bytes() == 0) return false;
  const auto* w = static_cast<const std::byte*>(whole.raw());
  const auto* p = static_cast<const std::byte*>(part.raw());
  if (p == w + rank * part.bytes()) return false;
  return p < w + whole.bytes() && w < p + part.bytes();
}

bool overlap(const Tensor& a, const Tensor& b) {
  if (a.bytes() == 0 || b.bytes() == 0) return false;
  const auto* x = static_cast<const std::byte*>(a.raw());
  const auto* y = static_cast<const std::byte*>(b.raw());
  return x < y + b.bytes() && y < x + a.bytes();
}

[[noreturn]] void refuse(const Communicator& comm, CommOp op, const std::string& what) {
  throw BugError({.what = comm_op_name(op) + " on group " + comm.name() + ": " + what});
}

void check_pair(const Communicator& comm, CommOp op, const Tensor& whole, const Tensor& part, int64_t blocks) {
  if (whole.dtype() != part.dtype()) refuse(comm, op, "dtypes differ");
  if (whole.device() != part.device()) refuse(comm, op, "devices differ");
  if (whole.numel() != blocks * part.numel()) {
    refuse(comm, op, tensor_str(whole) + " is not " + std::to_string(blocks) + " times " + tensor_str(part));
  }
}

}  // namespace

std::string CommCall::str() const {
  if (op == CommOp::send) {
    std::string out = "send_recv {";
    for (const Transfer& t : transfers) {
      const bool send = t.kind == Transfer::Kind::send;
      out += std::string(out.back() == '{' ? "" : ", ") + (send ? "send " : "recv ") + tensor_str(t.tensor) +
             (send ? " to " : " from ") + std::to_string(t.peer);
    }
    return out + "}";
  }
  std::string out = comm_op_name(op);
  if (op == CommOp::all_reduce || op == CommOp::reduce_scatter) out += " " + reduce_op_name(reduce);
  if (op == CommOp::broadcast) out += " from " + std::to_string(root);
  if (op != CommOp::barrier) out += " of " + tensor_str(input);
  return out + ", call " + std::to_string(sequence);
}

Device CommCall::device() const {
  const auto on_gpu = [](const Tensor& t) { return t.defined() && t.device().type != DeviceType::cpu; };
  if (on_gpu(input)) return input.device();
  if (on_gpu(output)) return output.device();
  for (const Transfer& t : transfers) {
    if (on_gpu(t.tensor)) return t.tensor.device();
  }
  return {};
}

WorkHandle Communicator::submit_collective(CommCall call, int64_t bytes, int peer, Stream& stream) {
  call.sequence = num_collectives_++;
  call.record_ids.push_back(recorder_.add({.sequence = call.sequence,
                                           .op = call.op,
                                           .group = name_,
                                           .group_rank = rank_,
                                           .group_size = size_,
                                           .peer = peer,
                                           .bytes = bytes}));
  const std::string name = comm_op_name(call.op);
  const TraceRange range(stream, name, bytes);
  return submit(std::move(call), stream);
}

WorkHandle Communicator::all_reduce(const Tensor& tensor, ReduceOp op, Stream& stream) {
  CommCall call{.op = CommOp::all_reduce, .reduce = op, .input = tensor, .output = tensor};
  return submit_collective(std::move(call), tensor.bytes(), /*peer=*/-1, stream);
}

WorkHandle Communicator::reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, Stream& stream) {
  check_pair(*this, CommOp::reduce_scatter, input, output, size_);
  if (overlaps_wrongly(input, output, rank_)) refuse(*this, CommOp::reduce_scatter, "input and output overlap");
  CommCall call{.op = CommOp::reduce_scatter, .reduce = op, .input = input, .output = output};
  return submit_collective(std::move(call), input.bytes(), /*peer=*/-1, stream);
}

WorkHandle Communicator::all_gather(const Tensor& input, const Tensor& output, Stream& stream) {
  check_pair(*this, CommOp::all_gather, output, input, size_);
  if (overlaps_wrongly(output, input, rank_)) refuse(*this, CommOp::all_gather, "input and output overlap");
  CommCall call{.op = CommOp::all_gather, .input = input, .output = output};
  return submit_collective(std::move(call), output.bytes(), /*peer=*/-1, stream);
}

WorkHandle Communicator::all_to_all(const Tensor& input, const Tensor& output, Stream& stream) {
  check_pair(*this, CommOp::all_to_all, input, output, 1);
  if (input.numel() % size_ != 0) refuse(*this, CommOp::all_to_all, tensor_str(input) + " is not a block per rank");
  if (overlap(input, output)) refuse(*this, CommOp::all_to_all, "input and output overlap");
  const std::vector<int64_t> counts(static_cast<size_t>(size_), input.numel() / size_);
  CommCall call{
      .op = CommOp::all_to_all, .input = input, .output = output, .send_counts = counts, .recv_counts = counts};
  return submit_collective(std::move(call), input.bytes(), /*peer=*/-1, stream);
}

WorkHandle Communicator::all_to_all_v(const Tensor& input, std::span<const int64_t> send_counts, const Tensor& output,
                                      std::span<const int64_t> recv_counts, Stream& stream) {
  constexpr CommOp kOp = CommOp::all_to_all_v;
  if (input.dtype() != output.dtype()) refuse(*this, kOp, "dtypes differ");
  if (input.device() != output.device()) refuse(*this, kOp, "devices differ");
  if (std::ssize(send_counts) != size_ || std::ssize(recv_counts) != size_) {
    refuse(*this, kOp, "counts are not one per rank");
  }
  int64_t num_sent = 0;
  int64_t num_received = 0;
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<size_t>(r);
    if (send_counts[i] < 0 || recv_counts[i] < 0) refuse(*this, kOp, "a count is negative");
    num_sent += send_counts[i];
    num_received += recv_counts[i];
  }
  if (num_sent > input.numel() || num_received > output.numel()) refuse(*this, kOp, "counts exceed the tensors");
  if (overlap(input, output)) refuse(*this, kOp, "input and output overlap");
  CommCall call{.op = kOp,
                .input = input,
                .output = output,
                .send_counts = {send_counts.begin(), send_counts.end()},
                .recv_counts = {recv_counts.begin(), recv_counts.end()}};
  return submit_collective(std::move(call), std::max(num_sent, num_received) * dtype_bytes(input.dtype()),
                           /*peer=*/-1, stream);
}

WorkHandle Communicator::broadcast(const Tensor& tensor, int root, Stream& stream) {
  if (root < 0 || root >= size_) refuse(*this, CommOp::broadcast, "there is no rank " + std::to_string(root));
  CommCall call{.op = CommOp::broadcast, .input = tensor, .output = tensor, .root = root};
  return submit_collective(std::move(call), tensor.bytes(), root, stream);
}

WorkHandle Communicator::send_recv(std::vector<Transfer> transfers, Stream& stream) {
  for (const Transfer& t : transfers) {
    if (t.peer < 0 || t.peer >= size_) refuse(*this, CommOp::send, "there is no rank " + std::to_string(t.peer));
    if (!t.tensor.defined()) refuse(*this, CommOp::send, "undefined tensor");
  }
  CommCall call{.op = CommOp::send, .transfers = std::move(transfers)};
  for (const Transfer& t : call.transfers) {
    const bool send = t.kind == Transfer::Kind::send;
    call.record_ids.push_back(recorder_.add({.sequence = (send ? num_sends_ : num_recvs_)[t.peer]++,
                                             .op = send ? CommOp::send : CommOp::recv,
                                             .group = name_,
                                             .group_rank = rank_,
                                             .group_size = size_,
                                             .peer = t.peer,
                                             .bytes = t.tensor.bytes()}));
  }
  int64_t bytes = 0;
  for (const Transfer& t : call.transfers) bytes += t.tensor.bytes();
  const TraceRange range(stream, "send_recv", bytes);
  return submit(std::move(call), stream);
}

WorkHandle Communicator::barrier(Stream& stream) {
  return submit_collective({.op = CommOp::barrier}, /*bytes=*/0, /*peer=*/-1, stream);
}

std::unique_ptr<Communicator> Communicator::split(std::span<const int> ranks, const std::string& name) {
  std::vector<bool> named(static_cast<size_t>(size_));
  for (const int r : ranks) {
    TRIREME_CHECK(r >= 0 && r < size_, "split names a rank that the group doesn't have");
    TRIREME_CHECK(!named[static_cast<size_t>(r)], "split names a rank twice");
    named[static_cast<size_t>(r)] = true;
  }
  TRIREME_CHECK(ranks.empty() || named[static_cast<size_t>(rank_)], "split without the caller in its own group");
  return split_group(ranks, name);
}

}  // namespace trireme
