// Turns errors of the CUDA runtime into ours.
#pragma once

#include <cuda_runtime.h>

#include <string_view>

namespace trireme::cuda {

// Throws MachineError with the runtime's name and text of the error unless `status` is success. `what` says what was
// tried: "record an event on cuda:0".
void check(cudaError_t status, std::string_view what);

}  // namespace trireme::cuda
