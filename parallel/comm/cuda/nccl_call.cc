#include "parallel/comm/cuda/nccl_call.h"

#include "core/device/cuda/check.h"
#include "parallel/comm/cuda/float_order.h"
#include "parallel/comm/local_transfers.h"

namespace trireme::cuda {

namespace {

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f64: return ncclFloat64;
    case DType::i32: return ncclInt32;
    case DType::i64: return ncclInt64;
    case DType::u8: return ncclUint8;
  }
  return ncclUint8;
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return ncclSum;
    case ReduceOp::max: return ncclMax;
    case ReduceOp::min: return ncclMin;
  }
  return ncclSum;
}

size_t count_of(const Tensor& tensor) { return static_cast<size_t>(tensor.numel()); }

// Results of a call inside a group say only that an argument is wrong; the rest shows at the group's end.
void check_queued(ncclResult_t result, const char* function) {
  if (result != ncclSuccess && result != ncclInProgress) throw NcclRefusal{function, result};
}

void copy(const void* from, void* to, int64_t bytes, CudaStream& stream) {
  if (bytes == 0 || from == to) return;
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream.handle()),
        "copy within " + stream.device().str());
}

// NCCL's maximum and minimum pass over NaN; ours don't. So floating-point numbers travel as integers that are ordered
// as they are.
bool needs_keys(const CommCall& call) {
  const bool reduces = call.op == CommOp::all_reduce || call.op == CommOp::reduce_scatter;
  return reduces && call.reduce != ReduceOp::sum && has_order_keys(call.input.dtype());
}

void queue_reduction(const NcclCall& work, const NcclTarget& target) {
  const CommCall& call = work.call;
  const bool keys = needs_keys(call);
  const Tensor& input = keys ? work.scratch[0] : call.input;
  const Tensor& output = keys ? work.scratch[1] : call.output;
  const ncclDataType_t type = nccl_type(input.dtype());
  cudaStream_t stream = target.stream.handle();
  if (call.op == CommOp::all_reduce) {
    check_queued(
        ncclAllReduce(input.raw(), output.raw(), count_of(output), type, nccl_op(call.reduce), target.comm, stream),
        "ncclAllReduce");
  } else {
    check_queued(
        ncclReduceScatter(input.raw(), output.raw(), count_of(output), type, nccl_op(call.reduce), target.comm, stream),
        "ncclReduceScatter");
  }
}

// Packed blocks of `counts` elements: the byte offset of each.
std::vector<int64_t> offsets_of(const std::vector<int64_t>& counts, int64_t element_bytes) {
  std::vector<int64_t> offsets;
  int64_t place = 0;
  for (const int64_t count : counts) {
    offsets.push_back(place * element_bytes);
    place += count;
  }
  return offsets;
}

void queue_exchange(const CommCall& call, const NcclTarget& target) {
  const int64_t element = dtype_bytes(call.input.dtype());
  const std::vector<int64_t> from = offsets_of(call.send_counts, element);
  const std::vector<int64_t> to = offsets_of(call.recv_counts, element);
  const auto* input = static_cast<const std::byte*>(call.input.raw());
  auto* output = static_cast<std::byte*>(call.output.raw());
  const ncclDataType_t type = nccl_type(call.input.dtype());
  for (int r = 0; r < target.size; ++r) {
    if (r == target.rank) continue;
    const auto i = static_cast<size_t>(r);
    check_queued(ncclSend(input + from[i], static_cast<size_t>(call.send_counts[i]), type, r, target.comm,
                          target.stream.handle()),
                 "ncclSend");
    check_queued(ncclRecv(output + to[i], static_cast<size_t>(call.recv_counts[i]), type, r, target.comm,
                          target.stream.handle()),
                 "ncclRecv");
  }
}

void copy_own_block(const CommCall& call, const NcclTarget& target) {
  const auto r = static_cast<size_t>(target.rank);
  if (call.send_counts[r] != call.recv_counts[r]) {
    throw BugError({.what = "the counts of rank " + std::to_string(target.rank) + " for itself differ: " + call.str()});
  }
  const int64_t element = dtype_bytes(call.input.dtype());
  copy(static_cast<const std::byte*>(call.input.raw()) + offsets_of(call.send_counts, element)[r],
       static_cast<std::byte*>(call.output.raw()) + offsets_of(call.recv_counts, element)[r],
       call.send_counts[r] * element, target.stream);
}

// As bytes: both sides name the same number of those, not of elements.
void queue_transfers(const CommCall& call, const NcclTarget& target) {
  for (const Transfer& t : call.transfers) {
    if (t.peer == target.rank) continue;
    const auto bytes = static_cast<size_t>(t.tensor.bytes());
    cudaStream_t stream = target.stream.handle();
    if (t.kind == Transfer::Kind::send) {
      check_queued(ncclSend(t.tensor.raw(), bytes, ncclUint8, t.peer, target.comm, stream), "ncclSend");
    } else {
      check_queued(ncclRecv(t.tensor.raw(), bytes, ncclUint8, t.peer, target.comm, stream), "ncclRecv");
    }
  }
}

}  // namespace

void NcclFailure::raise() const {
  switch (code) {
    case ExitCode::bug: throw BugError({.what = message});
    case ExitCode::peer: throw PeerError({.what = message});
    default: throw MachineError({.what = message});
  }
}

void NcclCall::release_tensors() {
  call = {};
  scratch.clear();
}

void queue_local_part(NcclCall& work, const NcclTarget& target) {
  const CommCall& call = work.call;
  switch (call.op) {
    case CommOp::all_reduce:
    case CommOp::reduce_scatter:
      if (needs_keys(call)) {
        const DType keys = order_key_dtype(call.input.dtype());
        work.scratch.push_back(Tensor::empty(target.stream, call.input.shape(), keys, MemoryTag::communication));
        work.scratch.push_back(Tensor::empty(target.stream, call.output.shape(), keys, MemoryTag::communication));
        to_order_keys(target.stream, call.input, /*nan_is_largest=*/call.reduce == ReduceOp::max, work.scratch[0]);
      }
      break;
    case CommOp::all_to_all:
    case CommOp::all_to_all_v: copy_own_block(call, target); break;
    case CommOp::send:
      for (const auto& [from, to] : local_transfers(call, target.rank)) {
        copy(from.raw(), to.raw(), from.bytes(), target.stream);
      }
      break;
    default: break;
  }
}

void queue_nccl_part(NcclCall& work, const NcclTarget& target) {
  const CommCall& call = work.call;
  cudaStream_t stream = target.stream.handle();
  switch (call.op) {
    case CommOp::all_reduce:
    case CommOp::reduce_scatter: queue_reduction(work, target); break;
    case CommOp::all_gather:
      check_queued(ncclAllGather(call.input.raw(), call.output.raw(), count_of(call.input),
                                 nccl_type(call.input.dtype()), target.comm, stream),
                   "ncclAllGather");
      break;
    case CommOp::broadcast:
      check_queued(ncclBroadcast(call.input.raw(), call.output.raw(), count_of(call.input),
                                 nccl_type(call.input.dtype()), call.root, target.comm, stream),
                   "ncclBroadcast");
      break;
    case CommOp::all_to_all:
    case CommOp::all_to_all_v: queue_exchange(call, target); break;
    case CommOp::barrier:
      check_queued(ncclAllReduce(target.token.raw(), target.token.raw(), 1, ncclInt32, ncclMax, target.comm, stream),
                   "ncclAllReduce");
      break;
    case CommOp::send:
    case CommOp::recv: queue_transfers(call, target); break;
  }
}

void queue_last_part(NcclCall& work, const NcclTarget& target) {
  if (needs_keys(work.call)) from_order_keys(target.stream, work.scratch[1], work.call.output);
}

}  // namespace trireme::cuda
