#include "core/device/cuda/cuda_device.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include "core/device/cuda/check.h"
#include "core/error.h"

namespace trireme::cuda {

namespace {

// The oldest driver that the runtime in this program works with, from "13000" to "13.0".
std::string version_str(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

cudaError_t count_devices(int& count) {
  count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();  // or the next call reports it
  return status;
}

std::string reason(cudaError_t status) {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  switch (status) {
    case cudaSuccess: return "the NVIDIA driver shows no GPU";
    case cudaErrorNoDevice: return "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES hides them, or there is none)";
    case cudaErrorInsufficientDriver:
      if (driver == 0) return "no NVIDIA driver was found";
      return "the NVIDIA driver is too old: it supports CUDA " + version_str(driver) + ", this program needs " +
             version_str(runtime);
    default: break;
  }
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

}  // namespace

int num_devices() {
  int count = 0;
  count_devices(count);
  return count;
}

std::string why_no_devices() {
  int count = 0;
  const cudaError_t status = count_devices(count);
  return count > 0 ? "" : reason(status);
}

void require_device(int index) {
  int count = 0;
  const cudaError_t status = count_devices(count);
  if (index < count) return;
  if (count == 0) {
    throw MachineError(
        {.what = "no GPU can be used: " + reason(status),
         .hint = "an NVIDIA driver for this GPU (nvidia-smi shows what is installed), or run.device: cpu"});
  }
  throw MachineError({.what = "there is no GPU " + std::to_string(index) + " on this machine",
                      .expected = "at most " + std::to_string(count) + " ranks on it, one for each GPU",
                      .hint = "fewer ranks per machine, or parallel.backend: mpi, which lets ranks share a GPU"});
}

DeviceInfo device_info(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "read the properties of cuda:" + std::to_string(index));
  char bus[64];
  std::snprintf(bus, sizeof bus, "%04x:%02x:%02x", static_cast<unsigned>(properties.pciDomainID),
                static_cast<unsigned>(properties.pciBusID), static_cast<unsigned>(properties.pciDeviceID));
  DeviceInfo info;
  info.name = properties.name;
  info.bus_id = bus;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

void profiler_start() { cudaProfilerStart(); }
void profiler_stop() { cudaProfilerStop(); }

}  // namespace trireme::cuda
