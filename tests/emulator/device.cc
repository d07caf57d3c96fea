// Devices: how many, what they are, which is current.
#include <cuda_profiler_api.h>

#include <cstdio>
#include <cstring>

#include "tests/emulator/api.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

thread_local int device_of_thread = 0;

constexpr int kRuntimeVersion = 13000;
constexpr int kMultiprocessors = 8;
constexpr int kMebi = 1 << 20;

int driver_version() {
  const int version = settings().driver_version;
  if (version >= 0) return version;
  return settings().num_devices > 0 ? kRuntimeVersion : 0;
}

cudaError_t check_device(int device) {
  const cudaError_t missing = missing_device();
  if (missing != cudaSuccess) return missing;
  return device >= 0 && device < settings().num_devices ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp p = {};
  std::snprintf(p.name, sizeof p.name, "Emulated GPU");
  p.totalGlobalMem = static_cast<size_t>(settings().memory_limit);
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = static_cast<size_t>(settings().shared_limit);
  p.sharedMemPerMultiprocessor = 228 << 10;
  p.reservedSharedMemPerBlock = 1 << 10;
  p.regsPerBlock = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 2147483647;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.major = 9;
  p.minor = 0;
  p.multiProcessorCount = kMultiprocessors;
  p.pciBusID = device + 1;
  p.memoryBusWidth = 5120;
  p.l2CacheSize = 50 * kMebi;
  return p;
}

}  // namespace

int current_device() { return device_of_thread; }

cudaError_t missing_device() {
  if (driver_version() < kRuntimeVersion) return cudaErrorInsufficientDriver;
  return settings().num_devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}

}  // namespace emulator

using emulator::note_error;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  cudaError_t error = emulator::injected_error("cudaGetDeviceCount");
  if (error == cudaSuccess) error = emulator::missing_device();
  if (error == cudaSuccess) *count = emulator::settings().num_devices;
  return note_error(error);
}

cudaError_t cudaSetDevice(int device) {
  cudaError_t error = emulator::injected_error("cudaSetDevice");
  if (error == cudaSuccess) error = emulator::check_device(device);
  if (error == cudaSuccess) emulator::device_of_thread = device;
  return note_error(error);
}

cudaError_t cudaGetDevice(int* device) {
  *device = emulator::device_of_thread;
  return note_error(emulator::missing_device());
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  cudaError_t error = emulator::injected_error("cudaGetDeviceProperties");
  if (error == cudaSuccess) error = emulator::check_device(device);
  if (error == cudaSuccess) *properties = emulator::properties_of(device);
  return note_error(error);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const cudaError_t error = emulator::check_device(device);
  if (error != cudaSuccess) return note_error(error);
  const cudaDeviceProp p = emulator::properties_of(device);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrClockRate: *value = 1000000; break;        // kHz
    case cudaDevAttrMemoryClockRate: *value = 1000000; break;  // kHz
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    default: return note_error(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulator::driver_version();
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = emulator::kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return emulator::api("cudaDeviceSynchronize", [] {
    const int device = emulator::current_device();
    if (emulator::any_capture(device)) return cudaErrorStreamCaptureUnsupported;
    emulator::tallies().host_waits += 1;
    emulator::wait_for_device(device);
    return emulator::device_error(device);
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return emulator::api("cudaDeviceGetStreamPriorityRange", [&] {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaProfilerStart() {
  emulator::tallies().profiler_starts += 1;
  return cudaSuccess;
}

cudaError_t cudaProfilerStop() {
  emulator::tallies().profiler_stops += 1;
  return cudaSuccess;
}

}  // extern "C"
