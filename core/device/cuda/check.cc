#include "core/device/cuda/check.h"

#include <string>

#include "core/error.h"

namespace trireme::cuda {

void check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  throw MachineError({.what = "CUDA failed to " + std::string(what),
                      .found = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status)});
}

}  // namespace trireme::cuda
