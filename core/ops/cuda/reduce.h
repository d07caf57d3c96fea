// Sums and maxima over a warp and over a block, in an order that depends on nothing but the block's size: every thread
// gets the same bits, run after run. Include from .cu files only.
#pragma once

#include <cuda_runtime.h>

#include "core/device/cuda/launch.h"

namespace trireme::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;
inline constexpr int kMaxWarps = 1024 / kWarp;  // of a block

// Over a group of kLanes neighbouring lanes (a power of two) of a warp, which all call; the warp's other groups need not.
// Addition of two numbers commutes, so both partners of an exchange get the same bits.
template <int kLanes = kWarp, class T>
__device__ __forceinline__ T warp_sum(T value) {
  unsigned lanes = kAllLanes;
  if constexpr (kLanes < kWarp) lanes = ((1u << kLanes) - 1) << (threadIdx.x % kWarp / kLanes * kLanes);
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(lanes, value, offset);
  return value;
}

// A NaN is left out.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// Over num_warps neighbouring warps, those of the whole block unless it is cut into groups: all threads of the *block*
// must call. `slots` is shared memory for num_warps numbers of the group, which no thread may touch between this call
// and the block's next __syncthreads().
template <class T>
__device__ __forceinline__ T group_sum(T value, T* slots, int warp_in_group, int num_warps) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_sum(value);
  if (num_warps == 1) return value;
  if (lane == 0) slots[warp_in_group] = value;
  __syncthreads();
  return warp_sum(lane < num_warps ? slots[lane] : T{0});
}

}  // namespace trireme::cuda
