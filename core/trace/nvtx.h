// Ranges of the calling thread in NVTX's domain `trireme`, which Nsight Systems records. Nested; without a profiler, a
// call that does nothing. In a program built without CUDA, nothing at all.
#pragma once

#include <cstdint>

namespace trireme::nvtx {

// `bytes`, where not negative, is shown as the range's payload.
void push(const char* name, int64_t bytes);
void pop();

}  // namespace trireme::nvtx
