// One call of a group while it is under way, and how it is said in NCCL's words.
#pragma once

#include <nccl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/device/cuda/cuda_stream.h"
#include "parallel/comm/communicator.h"

namespace trireme::cuda {

// Why a group can't be used any more.
struct NcclFailure {
  ExitCode code = ExitCode::machine;
  std::string message;

  [[noreturn]] void raise() const;
};

// Guarded by the mutex of its group, except `end`, which is constant.
struct NcclCall {
  CommCall call;                // holds the tensors while the GPU may touch them
  std::vector<Tensor> scratch;  // lives as long
  std::vector<int64_t> record_ids;
  std::string text;                // for messages
  const Stream* caller = nullptr;  // whose `wait` orders later uses of the tensors behind the call
  std::unique_ptr<Event> start;    // reached when the call's turn came
  std::shared_ptr<Event> end;      // null when the call was never queued
  double turn_seconds = 0;         // when `start` was seen to be reached
  bool started = false;
  bool finished = false;
  std::optional<NcclFailure> failure;

  void release_tensors();
};

// Where a call is queued. `token`: an i32[1] on the GPU, for barriers.
struct NcclTarget {
  ncclComm_t comm = nullptr;
  int rank = 0;
  int size = 1;
  CudaStream& stream;
  const Tensor& token;
};

// Thrown where NCCL refuses a function of its own at once; whoever knows host and rank makes a message of it.
struct NcclRefusal {
  const char* function;
  ncclResult_t result;
};

// The three parts of a call's work, in order, each with nothing to do for some calls: copies within the GPU and what
// prepares the rest; NCCL's part, to be called inside one NCCL group, which may throw NcclRefusal; what follows it.
void queue_local_part(NcclCall& work, const NcclTarget& target);
void queue_nccl_part(NcclCall& work, const NcclTarget& target);
void queue_last_part(NcclCall& work, const NcclTarget& target);

}  // namespace trireme::cuda
