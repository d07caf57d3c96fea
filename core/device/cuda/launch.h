// Launching kernels, and what every kernel uses. Include from .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/device/cuda/check.h"
#include "core/device/cuda/cuda_stream.h"
#include "core/error.h"

// The block's dynamic shared memory, one name for all kernels.
extern __shared__ __align__(16) unsigned char trireme_dynamic_shared[];

namespace trireme::cuda {

template <class T>
__device__ inline T* dynamic_shared() {
  return reinterpret_cast<T*>(trireme_dynamic_shared);
}

inline constexpr int kWarp = 32;
inline constexpr int64_t kDefaultSharedBytes = 48 << 10;  // more than this a kernel must ask for

// Queues kernel(args…) on `stream`, with `shared_bytes` of dynamic shared memory. A grid without blocks is no launch.
template <class... Params, class... Args>
void launch(Stream& stream, dim3 grid, dim3 block, int64_t shared_bytes, void (*kernel)(Params...), Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  CudaStream& cuda_stream = as_cuda(stream);
  cuda_stream.activate();
  if (shared_bytes > kDefaultSharedBytes) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "reserve " + std::to_string(shared_bytes) + " bytes of shared memory");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = cuda_stream.handle();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), "launch a kernel");
}

// Static and dynamic shared memory that a block can ask for: 227 KiB on an H200, 163 KiB on an A100, 99 KiB on an RTX 4090.
inline int64_t most_shared_bytes(Stream& stream) {
  struct Limit {
    explicit Limit(CudaStream& on) {
      check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, on.device().index),
            "read how much shared memory a block can have");
    }
    int bytes = 0;
  };
  return as_cuda(stream).resource<Limit>().bytes;
}

inline int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// A grid's size from a number of blocks.
inline unsigned grid_size(int64_t blocks) {
  TRIREME_CHECK(blocks >= 0 && blocks <= INT32_MAX, "a grid of too many blocks");
  return static_cast<unsigned>(blocks);
}

}  // namespace trireme::cuda
