// bf16 as device code sees it: the upper half of an fp32. Conversions round to nearest, ties to even; a NaN becomes
// 0x7fff, as on the GPU. No arithmetic in bf16: kernels compute in fp32.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulated/vector_types.h"

struct __nv_bfloat16_raw {
  unsigned short x;
};

struct __nv_bfloat16 {
  unsigned short __x;
  __nv_bfloat16() = default;
  constexpr __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}
  operator __nv_bfloat16_raw() const { return __nv_bfloat16_raw{__x}; }
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }

static inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.__x) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return __ushort_as_bfloat16(0x7fff);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return __ushort_as_bfloat16(static_cast<unsigned short>(bits >> 16));
}
static inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return __nv_bfloat162{__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return make_float2(__bfloat162float(v.x), __bfloat162float(v.y));
}
