// The emulated NCCL's calls: what is checked, how calls become launches, groups.
#include <vector>

#include "tests/emulator/nccl_handle.h"
#include "tests/emulator/stream.h"

namespace emulator {

namespace {

// What a thread has in hand between ncclGroupStart and ncclGroupEnd.
struct Queued {
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  NcclLaunch launch;
};
struct Group {
  int depth = 0;
  std::vector<Queued> queued;
  ncclResult_t error = ncclSuccess;
};
thread_local Group group;
thread_local std::string last_error;

const char* type_name(ncclDataType_t type) {
  switch (type) {
    case ncclFloat32: return "float32";
    case ncclFloat64: return "float64";
    case ncclBfloat16: return "bfloat16";
    case ncclInt32: return "int32";
    case ncclInt64: return "int64";
    case ncclUint8: return "uint8";
    default: return "another type";
  }
}

ncclResult_t check_memory(ncclComm_t comm, const void* data, size_t bytes, const char* name) {
  if (bytes == 0) return ncclSuccess;
  if (!emulator::is_device_range(data, bytes)) {
    return refuse(ncclInvalidArgument, std::string(name) + " is not " + std::to_string(bytes) + " bytes of GPU memory");
  }
  if (emulator::pointer_device(data) != comm->device) {
    return refuse(ncclInvalidArgument, std::string(name) + " is memory of another GPU than the communicator's");
  }
  return ncclSuccess;
}

ncclResult_t launch(const Queued& queued) {
  ncclComm_t comm = queued.comm;
  if (fails_by_order(comm)) return comm->blocking ? comm->clique->failure(comm->rank).first : ncclInProgress;
  ++comm->num_launches;
  if (comm->blocking) return start(comm, queued.launch, queued.stream);
  comm->background = {.waiting = true,
                      .launch = queued.launch,
                      .stream = queued.stream,
                      .num_looks = 1 + static_cast<int>(comm->num_launches % 3)};
  return ncclInProgress;
}

ncclResult_t end_group() {
  std::vector<Queued> queued = std::move(group.queued);
  const ncclResult_t error = group.error;
  group.queued.clear();
  group.error = ncclSuccess;
  if (error != ncclSuccess) return error;
  ncclResult_t result = ncclSuccess;
  for (const Queued& q : queued) {
    const ncclResult_t one = launch(q);
    if (one != ncclSuccess && (result == ncclSuccess || result == ncclInProgress)) result = one;
  }
  return result;
}

ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, const NcclOp& op) {
  if (stream_device(stream) != comm->device) {
    return refuse(ncclInvalidUsage, "the stream belongs to another GPU than the communicator");
  }
  if (op.count == 0 && !op.is_transfer()) return ncclSuccess;
  const bool alone = group.depth == 0;
  Queued* place = nullptr;
  for (Queued& queued : group.queued) {
    if (queued.comm == comm) place = &queued;
  }
  if (place == nullptr) place = &group.queued.emplace_back(Queued{comm, stream, {}});
  if (place->stream != stream) return refuse(ncclInvalidUsage, "one group, one communicator, two streams");
  place->launch.push_back(op);
  return alone ? end_group() : ncclSuccess;
}

// Checks that are the same for all calls. `send_blocks` and `recv_blocks` times count elements are touched.
ncclResult_t collective(ncclComm_t comm, cudaStream_t stream, const NcclOp& op, size_t send_blocks,
                        size_t recv_blocks) {
  if (const ncclResult_t result = check_ready(comm); result != ncclSuccess) return result;
  if (const ncclResult_t result = refused_by_order(comm); result != ncclSuccess) return result;
  const size_t bytes = op.count * nccl_type_bytes(op.type);
  if (nccl_type_bytes(op.type) == 0) return refuse(ncclInvalidArgument, "unknown type");
  if (op.peer < 0 || op.peer >= comm->clique->size()) return refuse(ncclInvalidArgument, "there is no such rank");
  if (const auto result = check_memory(comm, op.send, send_blocks * bytes, "sendbuff"); result != ncclSuccess) {
    return result;
  }
  if (const auto result = check_memory(comm, op.recv, recv_blocks * bytes, "recvbuff"); result != ncclSuccess) {
    return result;
  }
  return enqueue(comm, stream, op);
}

bool is_known_op(ncclRedOp_t op) { return op == ncclSum || op == ncclMax || op == ncclMin; }

}  // namespace

ncclResult_t refuse(ncclResult_t result, const std::string& text) {
  set_last_error(text);
  if (group.depth > 0) group.error = result;
  return result;
}

void set_last_error(const std::string& text) { last_error = text; }

ncclResult_t check_ready(ncclComm_t comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "comm argument is NULL");
  if (!comm->joined || comm->background.waiting || comm->finalizing) {
    return refuse(ncclInvalidArgument,
                  "Attempt to use communicator before the previous operation returned ncclSuccess");
  }
  return ncclSuccess;
}

ncclResult_t start(ncclComm_t comm, const NcclLaunch& launch, cudaStream_t stream) {
  Clique* clique = comm->clique;
  const int rank = comm->rank;
  const bool counted = !is_capturing(stream);  // what goes into a graph may run often, or never
  if (counted) clique->add_outstanding(rank, 1);
  const cudaError_t status = submit(stream, launch.front().str().c_str(), [clique, rank, launch, counted] {
    clique->run(rank, launch);
    count_launch();
    if (counted) clique->add_outstanding(rank, -1);
  });
  if (status == cudaSuccess) return ncclSuccess;
  if (counted) clique->add_outstanding(rank, -1);
  const std::string text = std::string("Cuda failure '") + cudaGetErrorString(status) + "'";
  clique->fail_rank(rank, ncclUnhandledCudaError, text);
  set_last_error(text);
  return ncclUnhandledCudaError;
}

size_t nccl_type_bytes(ncclDataType_t type) {
  switch (type) {
    case ncclFloat32:
    case ncclInt32: return 4;
    case ncclFloat64:
    case ncclInt64: return 8;
    case ncclBfloat16: return 2;
    case ncclUint8: return 1;
    default: return 0;
  }
}

std::string NcclOp::str() const {
  const std::string what = " of " + std::to_string(count) + " " + type_name(type);
  const std::string reduction = op == ncclSum ? ", sum" : op == ncclMax ? ", max" : ", min";
  switch (kind) {
    case Kind::all_reduce: return "ncclAllReduce" + what + reduction;
    case Kind::reduce_scatter: return "ncclReduceScatter" + what + reduction;
    case Kind::all_gather: return "ncclAllGather" + what;
    case Kind::broadcast: return "ncclBroadcast" + what + " from " + std::to_string(peer);
    case Kind::send: return "ncclSend" + what + " to " + std::to_string(peer);
    case Kind::recv: return "ncclRecv" + what + " from " + std::to_string(peer);
  }
  return "?";
}

}  // namespace emulator

using emulator::collective;
using emulator::is_known_op;
using emulator::NcclOp;
using emulator::refuse;

extern "C" {

const char* ncclGetLastError(ncclComm_t) { return emulator::last_error.c_str(); }

ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  if (!is_known_op(op)) return refuse(ncclInvalidArgument, "the emulated NCCL has no such reduction");
  return collective(comm, stream, {NcclOp::Kind::all_reduce, send, recv, count, type, op}, 1, 1);
}

ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  if (!is_known_op(op)) return refuse(ncclInvalidArgument, "the emulated NCCL has no such reduction");
  const size_t blocks = comm == nullptr ? 0 : static_cast<size_t>(comm->clique->size());
  return collective(comm, stream, {NcclOp::Kind::reduce_scatter, send, recv, count, type, op}, blocks, 1);
}

ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t blocks = comm == nullptr ? 0 : static_cast<size_t>(comm->clique->size());
  return collective(comm, stream, {NcclOp::Kind::all_gather, send, recv, count, type}, 1, blocks);
}

ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t reads = comm != nullptr && comm->rank == root ? 1 : 0;
  return collective(comm, stream, {NcclOp::Kind::broadcast, send, recv, count, type, ncclSum, root}, reads, 1);
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return collective(comm, stream, {NcclOp::Kind::send, send, nullptr, count, type, ncclSum, peer}, 1, 0);
}

ncclResult_t ncclRecv(void* recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {NcclOp::Kind::recv, nullptr, recv, count, type, ncclSum, peer}, 0, 1);
}

ncclResult_t ncclGroupStart(void) {
  ++emulator::group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
  if (emulator::group.depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
  if (--emulator::group.depth > 0) return ncclSuccess;
  return emulator::end_group();
}

}  // extern "C"
