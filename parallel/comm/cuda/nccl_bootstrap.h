// What the ranks of a new NCCL group tell each other through host memory before NCCL can.
#pragma once

#include <nccl.h>

#include <string>

#include "parallel/comm/communicator.h"

namespace trireme::cuda {

// This machine's name.
std::string host_name();

// Throws MachineError, on all ranks, when two of them would share a GPU. Collective.
void refuse_shared_gpus(Communicator& host, const std::string& group, Device device);

// The id of a new group, from rank 0. Collective.
ncclUniqueId share_unique_id(Communicator& host);

// Narrows NCCL's choice of algorithms to repeatable ones, unless the user has chosen. Before the first group is made.
void pin_algorithms();

}  // namespace trireme::cuda
