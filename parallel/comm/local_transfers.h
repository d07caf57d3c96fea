// Point-to-point transfers of a rank with itself: a copy from each send to the receive of the same place in
// the list.
#pragma once

#include "parallel/comm/communicator.h"

namespace trireme {

// Copies what `call` sends to `rank`, the caller itself. Throws BugError when sends and receives don't fit.
void run_local_transfers(const CommCall& call, int rank);

}  // namespace trireme
