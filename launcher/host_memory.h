// Memory of this machine's host.
#pragma once

#include <cstdint>

namespace trireme {

// Bytes that this process may still take without swapping: what Linux says is available, and no more than what is left of
// its control group (containers, Slurm). 0 where nothing can be found out.
int64_t available_host_bytes();

}  // namespace trireme
