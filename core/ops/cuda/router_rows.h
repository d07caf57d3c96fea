// What the kernels of routers share: a warp works on a token's row of choices, each lane on every 32nd of them. Include
// from .cu files only.
#pragma once

#include <cmath>

#include "core/ops/cuda/reduce.h"
#include "core/ops/math.h"
#include "core/ops/router.h"

namespace trireme::cuda {

inline constexpr int kRouterWarps = 4;  // rows of a block

struct RowLogSumExp {
  float max;
  float log_sum;  // of e^(x − max)

  __device__ float value() const { return max + log_sum; }
};

// All lanes must call.
__device__ __forceinline__ float row_max(const float* x, int64_t n, int lane) {
  float max = -INFINITY;
  for (int64_t i = lane; i < n; i += kWarp) max = fmaxf(max, x[i]);
  return warp_max(max);
}

__device__ __forceinline__ float row_sum(const float* x, int64_t n, int lane) {
  float sum = 0;
  for (int64_t i = lane; i < n; i += kWarp) sum += x[i];
  return warp_sum(sum);
}

__device__ __forceinline__ RowLogSumExp row_log_sum_exp(const float* x, int64_t n, int lane) {
  const float max = row_max(x, n, lane);
  float sum = 0;
  for (int64_t i = lane; i < n; i += kWarp) sum += math::exp_of_nonpositive(x[i] - max);
  return {max, std::log(warp_sum(sum))};
}

}  // namespace trireme::cuda
