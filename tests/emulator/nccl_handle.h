// A rank's handle of an emulated NCCL communicator, and the way of its launches to the stream.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <string>

#include "tests/emulator/nccl_clique.h"

namespace emulator {

// A launch that NCCL's thread is still to put on the stream.
struct Background {
  bool waiting = false;
  NcclLaunch launch;
  cudaStream_t stream = nullptr;
  int num_looks = 0;  // until it is there
};

}  // namespace emulator

// Used by one thread at a time, as NCCL's.
struct ncclComm {
  emulator::Clique* clique = nullptr;
  int rank = 0;
  int device = 0;
  bool blocking = true;
  bool joined = false;  // all ranks are known to be there
  bool finalizing = false;
  int64_t num_launches = 0;
  emulator::Background background;
};

namespace emulator {

// Remembers `text` for ncclGetLastError, spoils the group that is open; returns `result`.
ncclResult_t refuse(ncclResult_t result, const std::string& text);
void set_last_error(const std::string& text);

// Whether the handle may be used for a call.
ncclResult_t check_ready(ncclComm_t comm);
// Puts the launch on its stream.
ncclResult_t start(ncclComm_t comm, const NcclLaunch& launch, cudaStream_t stream);
// What a test wants this call to return at once; ncclSuccess: nothing of its own.
ncclResult_t refused_by_order(ncclComm_t comm);
// Whether a test wants this launch to fail; the rank has failed then.
bool fails_by_order(ncclComm_t comm);
void count_launch();

}  // namespace emulator
