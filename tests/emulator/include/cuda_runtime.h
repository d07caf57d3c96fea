// Takes the place of NVIDIA's <cuda_runtime.h> where .cu files are compiled as C++ for the emulator: keywords and
// built-in variables of device code, warp operations, and the launch of kernels. What is missing doesn't compile.
//
// A kernel's threads run as fibers of one host thread; blocks of one launch run on up to two. tests/emulator/README.md
// says what a kernel must keep to and what the emulator sees.
#pragma once

#include "cuda_runtime_api.h"
#include "emulated/keywords.h"
#include "emulated/launch.h"
#include "emulated/math.h"
#include "emulated/warp.h"

template <class T>
static inline cudaError_t cudaMalloc(T** data, size_t bytes) {
  return ::cudaMalloc(reinterpret_cast<void**>(data), bytes);
}
template <class T>
static inline cudaError_t cudaHostAlloc(T** data, size_t bytes, unsigned int flags) {
  return ::cudaHostAlloc(reinterpret_cast<void**>(data), bytes, flags);
}
