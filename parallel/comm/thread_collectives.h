// What a collective does to the tensors of all its ranks, when they lie in one address space.
#pragma once

#include <span>
#include <string>

#include "parallel/comm/communicator.h"

namespace trireme {

// Why these calls, one per rank, are not one collective; empty when they are.
std::string collective_mismatch(std::span<const CommCall* const> calls);

// Runs it on the calling thread. REQUIRES: no mismatch; nobody else touches the tensors.
void run_collective_in_memory(std::span<const CommCall* const> calls);

}  // namespace trireme
