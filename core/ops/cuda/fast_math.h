// The GPU's own exponential and reciprocal, for what is rounded to bf16 afterwards. Include from .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/ops/math.h"

namespace trireme::cuda {

// Takes the place of math::Portable. eˣ is off by 2 + |x| units in the last place, the reciprocal by 2; 1/x is 0 for
// |x| > 2¹²⁶. A NaN stays a NaN.
struct Fast {
  __device__ static float exp(float x) { return __expf(x); }
  __device__ static float reciprocal(float x) { return __fdividef(1.0f, x); }
};

// What computes elements of type T: with fp32 results every bit counts.
template <class T>
using UnitOf = std::conditional_t<std::is_same_v<T, bf16>, Fast, math::Portable>;

}  // namespace trireme::cuda
