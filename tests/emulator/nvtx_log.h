// What a profiler would see of our NVTX ranges. Thread-safe; off until a test asks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

struct NvtxRange {
  std::string domain;
  std::string name;
  int64_t bytes = -1;  // the payload, if any
  int depth = 0;       // of nesting on its thread, from 0
};

// Starts recording, or forgets what was recorded.
void record_nvtx();
// The ranges since then, in the order in which they began.
std::vector<NvtxRange> take_nvtx();

}  // namespace emulator
