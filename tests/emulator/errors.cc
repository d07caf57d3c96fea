#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "tests/emulator/api.h"
#include "tests/emulator/hidden.h"
#include "tests/emulator/settings.h"

namespace emulator {

namespace {

struct Name {
  cudaError_t error;
  const char* name;
  const char* text;
};

#define EMULATED_ERROR(name, text) \
  { name, #name, text }
constexpr Name kNames[] = {
    EMULATED_ERROR(cudaSuccess, "no error"),
    EMULATED_ERROR(cudaErrorInvalidValue, "invalid argument"),
    EMULATED_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    EMULATED_ERROR(cudaErrorInitializationError, "initialization error"),
    EMULATED_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    EMULATED_ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    EMULATED_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    EMULATED_ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    EMULATED_ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    EMULATED_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    EMULATED_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    EMULATED_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    EMULATED_ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    EMULATED_ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    EMULATED_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    EMULATED_ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    EMULATED_ERROR(cudaErrorNotReady, "device not ready"),
    EMULATED_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    EMULATED_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    EMULATED_ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    EMULATED_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    EMULATED_ERROR(cudaErrorNotSupported, "operation not supported"),
    EMULATED_ERROR(cudaErrorSystemDriverMismatch, "system has unsupported display driver / cuda driver combination"),
    EMULATED_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    EMULATED_ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    EMULATED_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    EMULATED_ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    EMULATED_ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    EMULATED_ERROR(cudaErrorUnknown, "unknown error"),
};
#undef EMULATED_ERROR

const Name* find_name(cudaError_t error) {
  for (const Name& name : kNames) {
    if (name.error == error) return &name;
  }
  return nullptr;
}

struct Injected {
  std::string call;
  cudaError_t error;
  int skip;
};

struct Errors {
  HiddenMutex mutex;
  std::vector<Injected> injected;
  std::atomic<int> num_injected{0};
  std::atomic<int> of_device[kMaxDevices] = {};
};

Errors& errors() {
  static Errors* all = new Errors;
  return *all;
}

thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

cudaError_t injected_error(const char* name) {
  Errors& e = errors();
  if (e.num_injected.load() == 0) return cudaSuccess;
  HiddenLock lock(e.mutex);
  for (size_t i = 0; i < e.injected.size(); ++i) {
    if (e.injected[i].call != name || e.injected[i].skip-- > 0) continue;
    const cudaError_t error = e.injected[i].error;
    e.injected.erase(e.injected.begin() + static_cast<std::ptrdiff_t>(i));
    e.num_injected.fetch_sub(1);
    return error;
  }
  return cudaSuccess;
}

void fail_next(const std::string& call, cudaError_t error, int skip) {
  HiddenLock lock(errors().mutex);
  errors().injected.push_back({call, error, skip});
  errors().num_injected.fetch_add(1);
}

cudaError_t device_error(int device) { return static_cast<cudaError_t>(errors().of_device[device].load()); }

void set_device_error(int device, cudaError_t error) {
  int none = cudaSuccess;
  errors().of_device[device].compare_exchange_strong(none, error);
}

void fail_device(int device, cudaError_t error) { set_device_error(device, error); }

void clear_errors() {
  Errors& e = errors();
  for (auto& error : e.of_device) error.store(cudaSuccess);
  HiddenLock lock(e.mutex);
  e.injected.clear();
  e.num_injected.store(0);
  last_error = cudaSuccess;
}

cudaError_t note_error(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace emulator

extern "C" {

cudaError_t cudaPeekAtLastError() {
  const int device = emulator::current_device();
  const cudaError_t sticky = emulator::device_error(device);
  return sticky != cudaSuccess ? sticky : emulator::last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  emulator::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  const emulator::Name* name = emulator::find_name(error);
  return name != nullptr ? name->text : "unrecognized error code";
}

const char* cudaGetErrorName(cudaError_t error) {
  const emulator::Name* name = emulator::find_name(error);
  return name != nullptr ? name->name : "unrecognized error code";
}

}  // extern "C"
