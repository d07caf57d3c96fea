#include "parallel/comm/thread_collectives.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel/comm/reduce.h"

namespace trireme {

namespace {

// Elements reduced before they are copied to the other ranks, so that they are still in the cache.
constexpr int64_t kPiece = 32768;

std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }

void copy_bytes(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

using Calls = std::span<const CommCall* const>;

void all_reduce(Calls calls) {
  const DType dtype = calls[0]->input.dtype();
  const int64_t size = dtype_bytes(dtype);
  std::vector<const void*> inputs(calls.size());
  for (int64_t begin = 0; begin < calls[0]->input.numel(); begin += kPiece) {
    const int64_t n = std::min(kPiece, calls[0]->input.numel() - begin);
    for (size_t r = 0; r < calls.size(); ++r) inputs[r] = bytes_of(calls[r]->input) + begin * size;
    std::byte* first = bytes_of(calls[0]->output) + begin * size;
    reduce_in_rank_order(dtype, calls[0]->reduce, inputs, first, n);
    for (size_t r = 1; r < calls.size(); ++r) copy_bytes(bytes_of(calls[r]->output) + begin * size, first, n * size);
  }
}

void reduce_scatter(Calls calls) {
  const DType dtype = calls[0]->input.dtype();
  const int64_t block = calls[0]->output.numel();
  std::vector<const void*> inputs(calls.size());
  for (size_t owner = 0; owner < calls.size(); ++owner) {
    for (size_t r = 0; r < calls.size(); ++r) {
      inputs[r] = bytes_of(calls[r]->input) + static_cast<int64_t>(owner) * block * dtype_bytes(dtype);
    }
    reduce_in_rank_order(dtype, calls[0]->reduce, inputs, calls[owner]->output.raw(), block);
  }
}

void all_gather(Calls calls) {
  const int64_t block = calls[0]->input.bytes();
  for (const CommCall* to : calls) {
    for (size_t r = 0; r < calls.size(); ++r) {
      copy_bytes(bytes_of(to->output) + static_cast<int64_t>(r) * block, bytes_of(calls[r]->input), block);
    }
  }
}

void all_to_all(Calls calls) {
  const int64_t size = dtype_bytes(calls[0]->input.dtype());
  std::vector<int64_t> sent(calls.size(), 0);  // elements of each rank's input that are gone already
  for (size_t to = 0; to < calls.size(); ++to) {
    std::byte* place = bytes_of(calls[to]->output);
    for (size_t from = 0; from < calls.size(); ++from) {
      const int64_t n = calls[from]->send_counts[to];
      copy_bytes(place, bytes_of(calls[from]->input) + sent[from] * size, n * size);
      place += n * size;
      sent[from] += n;
    }
  }
}

}  // namespace

std::string collective_mismatch(Calls calls) {
  const CommCall& a = *calls[0];
  for (size_t r = 1; r < calls.size(); ++r) {
    const CommCall& b = *calls[r];
    const bool same_sizes =
        a.op == CommOp::all_to_all_v || (a.input.numel() == b.input.numel() && a.output.numel() == b.output.numel());
    if (a.op != b.op || a.reduce != b.reduce || a.root != b.root || !same_sizes || a.input.dtype() != b.input.dtype()) {
      return "rank 0 called " + a.str() + ", rank " + std::to_string(r) + " called " + b.str();
    }
  }
  if (a.op != CommOp::all_to_all_v) return "";
  for (size_t from = 0; from < calls.size(); ++from) {
    for (size_t to = 0; to < calls.size(); ++to) {
      const int64_t sent = calls[from]->send_counts[to];
      const int64_t expected = calls[to]->recv_counts[from];
      if (sent == expected) continue;
      return "all_to_all_v: rank " + std::to_string(from) + " sends " + std::to_string(sent) + " elements to rank " +
             std::to_string(to) + ", which expects " + std::to_string(expected);
    }
  }
  return "";
}

void run_collective_in_memory(Calls calls) {
  const CommCall& first = *calls[0];
  switch (first.op) {
    case CommOp::all_reduce: return all_reduce(calls);
    case CommOp::reduce_scatter: return reduce_scatter(calls);
    case CommOp::all_gather: return all_gather(calls);
    case CommOp::all_to_all:
    case CommOp::all_to_all_v: return all_to_all(calls);
    case CommOp::broadcast:
      for (const CommCall* call : calls) {
        const Tensor& root = calls[static_cast<size_t>(first.root)]->input;
        copy_bytes(bytes_of(call->output), bytes_of(root), root.bytes());
      }
      return;
    case CommOp::barrier:
    case CommOp::send:
    case CommOp::recv: return;
  }
}

}  // namespace trireme
