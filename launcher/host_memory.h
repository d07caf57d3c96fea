// Memory of this machine's host.
#pragma once

#include <cstdint>
#include <filesystem>

namespace trireme {

// Bytes that this process may still take without swapping: what Linux says is available, and no more than what is left of
// its control group and of those above it (containers, Slurm; cgroup 2 and 1). 0 where nothing can be found out.
// `root`: where /proc and /sys are looked for.
int64_t available_host_bytes(const std::filesystem::path& root = "/");

}  // namespace trireme
