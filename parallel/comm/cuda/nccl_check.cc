#include "parallel/comm/cuda/nccl_check.h"

#include "parallel/comm/cuda/nccl_bootstrap.h"

namespace trireme::cuda {

std::string nccl_text(ncclResult_t result, ncclComm_t comm) {
  std::string text = ncclGetErrorString(result);
  const char* last = ncclGetLastError(comm);
  if (last != nullptr && *last != '\0') text += ": " + std::string(last);
  return text;
}

void check_nccl(ncclResult_t result, const std::string& call, int rank) {
  if (result == ncclSuccess) return;
  throw MachineError({.what = "NCCL failed in " + call,
                      .found = nccl_text(result),
                      .where = "host " + host_name() + ", rank " + std::to_string(rank) + " of the world",
                      .hint = "NCCL_DEBUG=INFO, which makes NCCL print what it does"});
}

}  // namespace trireme::cuda
