// Turns NCCL's results into our errors.
#pragma once

#include <nccl.h>

#include <string>

#include "core/error.h"

namespace trireme::cuda {

// What NCCL says about `result`: its name for it, and its last error on this group (or at all).
std::string nccl_text(ncclResult_t result, ncclComm_t comm = nullptr);

// For calls outside groups. Throws MachineError that names the call and this rank of the world, unless `result` is success.
void check_nccl(ncclResult_t result, const std::string& call, int rank);

}  // namespace trireme::cuda
