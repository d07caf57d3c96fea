// Which device a rank trains on, and through which backend the ranks' devices communicate.
#pragma once

#include "core/config/config.h"
#include "core/device/device.h"
#include "core/tensor/dtype.h"

namespace trireme {

// The rank's place among those of its machine.
struct LocalPlace {
  int rank = 0;
  int size = 1;
};

struct RankDevice {
  Device device;
  CommBackend backend = CommBackend::mpi;  // between the devices: nccl or mpi

  double peak_flops(DType compute) const;  // of the hardware's data sheet, dense; 0 where unknown, and for the CPU
  std::string str() const;                 // "cuda:0 (NVIDIA H200)"
};

// run.device and parallel.backend: `auto` is a GPU where the driver shows one, and NCCL between GPUs. Each rank of a
// machine takes the GPU of its local number, among those that it is shown; under the MPI backend ranks may share one, under
// NCCL their first group refuses it. MachineError where there is no GPU; ConfigError for NCCL without GPUs.
RankDevice resolve_device(const Config& config, LocalPlace place);

}  // namespace trireme
