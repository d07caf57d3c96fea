// Point-to-point transfers of a rank with itself: a copy from each send to the receive of the same place in
// the list.
#pragma once

#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"

namespace trireme {

// What `call` sends to `rank`, the caller itself, as pairs (from, to) of equal size. Throws BugError when sends and
// receives don't fit.
std::vector<std::pair<Tensor, Tensor>> local_transfers(const CommCall& call, int rank);

// Copies them. REQUIRES: host tensors.
void run_local_transfers(const CommCall& call, int rank);

}  // namespace trireme
