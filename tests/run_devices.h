// The device that whole runs of tests are on: what `run.device: auto` takes. A program of tests runs on the CPU, and on a
// machine with GPUs, or with emulated ones, on those; CUDA_VISIBLE_DEVICES= hides them from it.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/device/cuda/cuda_device.h"

namespace trireme {

inline std::string run_device_name() { return cuda::num_devices() > 0 ? "cuda" : "cpu"; }

// How many ranks, at most `wanted`, can run as threads of a test: any number on the CPU, one for each GPU.
inline int most_ranks(int wanted) {
  const int gpus = cuda::num_devices();
  return gpus == 0 ? wanted : std::min(wanted, gpus);
}

// Those of `wanted` that can run.
inline std::vector<int> ranks_that_fit(const std::vector<int>& wanted) {
  std::vector<int> fitting;
  for (const int ranks : wanted) {
    if (most_ranks(ranks) == ranks) fitting.push_back(ranks);
  }
  return fitting;
}

}  // namespace trireme
