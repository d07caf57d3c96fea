// 16-byte access to f32 and bf16 in global and shared memory, as fp32 in registers. Include from .cu files only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/ops/math.h"
#include "core/tensor/dtype.h"

namespace trireme::cuda {

// Elements of 16 bytes.
template <class T>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(T));

template <int kN>
struct Floats {
  float x[kN];
};

// Elements as they lie in memory, moved by 16 bytes at a time where there are as many.
template <class T, int kN>
struct alignas(kN * sizeof(T) < 16 ? kN * sizeof(T) : 16) Raw {
  static constexpr int kWords = kN * static_cast<int>(sizeof(T)) / 4;
  uint32_t word[kWords];
};
template <class T>
struct Raw<T, 1> {
  T value;
};

// Whether p may be given to the functions below for vectors of kN elements.
template <int kN, class T>
inline bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Raw<T, kN>) == 0;
}

template <int kN, class T>
__device__ __forceinline__ Raw<T, kN> load_raw(const T* p) {
  return *reinterpret_cast<const Raw<T, kN>*>(p);
}

template <int kN, class T>
__device__ __forceinline__ void store_raw(T* p, const Raw<T, kN>& raw) {
  *reinterpret_cast<Raw<T, kN>*>(p) = raw;
}

template <class T, int kN>
__device__ __forceinline__ Floats<kN> widen(const Raw<T, kN>& raw) {
  Floats<kN> out;
  if constexpr (kN == 1) {
    out.x[0] = math::load(&raw.value);
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        const uint32_t pair = raw.word[i / 2];
        out.x[i] = bit_cast<float>(i % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
      } else {
        out.x[i] = bit_cast<float>(raw.word[i]);
      }
    }
  }
  return out;
}

template <int kN, class T>
__device__ __forceinline__ Floats<kN> load(const T* p) {
  return widen(load_raw<kN>(p));
}

// Two bf16 in one word, each rounded to nearest even as bf16::round does it (but for the bits of a NaN).
__device__ __forceinline__ uint32_t round_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

template <class T, int kN>
__device__ __forceinline__ Raw<T, kN> narrow(const Floats<kN>& values) {
  Raw<T, kN> raw;
  if constexpr (kN == 1) {
    math::store(&raw.value, values.x[0]);
  } else {
#pragma unroll
    for (int i = 0; i < Raw<T, kN>::kWords; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        raw.word[i] = round_pair(values.x[2 * i], values.x[2 * i + 1]);
      } else {
        raw.word[i] = bit_cast<uint32_t>(values.x[i]);
      }
    }
  }
  return raw;
}

template <int kN, class T>
__device__ __forceinline__ void store(T* p, const Floats<kN>& values) {
  store_raw(p, narrow<T>(values));
}

}  // namespace trireme::cuda
