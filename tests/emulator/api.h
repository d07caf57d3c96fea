// What every function of the runtime does: looks for an injected error and for devices, and leaves its result as the
// thread's last error.
#pragma once

#include <cuda_runtime_api.h>

#include "tests/emulator/race.h"

namespace emulator {

// The error that the next call of `name` was told to return, or cudaSuccess.
cudaError_t injected_error(const char* name);
// cudaSuccess where there is a device; else what a call returns on a machine without.
cudaError_t missing_device();
// What a dead kernel or fail_device left.
cudaError_t device_error(int device);
void set_device_error(int device, cudaError_t error);

cudaError_t note_error(cudaError_t error);  // and returns it
int current_device();                       // of this host thread

// Calls `body` unless the call must fail, or fails for the current device's sake.
template <class F>
cudaError_t api(const char* name, F&& body) {
  const race::Ignored ignored;
  cudaError_t error = injected_error(name);
  if (error == cudaSuccess) error = missing_device();
  if (error == cudaSuccess) error = device_error(current_device());
  if (error == cudaSuccess) error = body();
  return note_error(error);
}

}  // namespace emulator
