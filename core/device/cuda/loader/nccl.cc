// The functions of NCCL that the program calls.
#include <cuda_runtime.h>

// Hidden, so that no library that is loaded later finds these in place of its own.
#pragma GCC visibility push(hidden)
#include <nccl.h>
#pragma GCC visibility pop

#include "core/device/cuda/loader/library.h"

#define FORWARD(result, name, parameters, arguments) \
  TRIREME_FORWARD(::trireme::cuda::nccl_library(), result, name, parameters, arguments)
#define FORWARD_RESULT(name, parameters, arguments) FORWARD(ncclResult_t, name, parameters, arguments)

extern "C" {

FORWARD_RESULT(ncclGetVersion, (int* version), (version))
FORWARD_RESULT(ncclGetUniqueId, (ncclUniqueId * id), (id))
FORWARD_RESULT(ncclCommInitRankConfig,
               (ncclComm_t * comm, int num_ranks, ncclUniqueId id, int rank, ncclConfig_t* config),
               (comm, num_ranks, id, rank, config))
FORWARD_RESULT(ncclCommFinalize, (ncclComm_t comm), (comm))
FORWARD_RESULT(ncclCommDestroy, (ncclComm_t comm), (comm))
FORWARD_RESULT(ncclCommAbort, (ncclComm_t comm), (comm))
FORWARD_RESULT(ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t* error), (comm, error))
FORWARD(const char*, ncclGetErrorString, (ncclResult_t result), (result))
FORWARD(const char*, ncclGetLastError, (ncclComm_t comm), (comm))

FORWARD_RESULT(ncclAllReduce,
               (const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                cudaStream_t stream),
               (send, receive, count, type, op, comm, stream))
FORWARD_RESULT(ncclReduceScatter,
               (const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                cudaStream_t stream),
               (send, receive, count, type, op, comm, stream))
FORWARD_RESULT(ncclAllGather,
               (const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                cudaStream_t stream),
               (send, receive, count, type, comm, stream))
FORWARD_RESULT(ncclBroadcast,
               (const void* send, void* receive, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                cudaStream_t stream),
               (send, receive, count, type, root, comm, stream))
FORWARD_RESULT(ncclSend,
               (const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),
               (send, count, type, peer, comm, stream))
FORWARD_RESULT(ncclRecv,
               (void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),
               (receive, count, type, peer, comm, stream))
FORWARD_RESULT(ncclGroupStart, (), ())
FORWARD_RESULT(ncclGroupEnd, (), ())

}  // extern "C"
