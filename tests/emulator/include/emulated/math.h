// Arithmetic of device code that the host's <cmath> lacks. What the GPU only approximates (__expf, rsqrtf, __fdividef)
// is computed here as well as the host can.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// glibc declares a function of this name.
#define __expf(x) ::expf(x)

static inline float rsqrtf(float x) { return 1.0f / ::sqrtf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }

template <class T>
static inline T __ldg(const T* p) {
  return *p;
}

static inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
static inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
static inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

// For whole numbers only: a sum of floats would depend on the order of the threads.
static inline int atomicAdd(int* p, int value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
static inline unsigned atomicAdd(unsigned* p, unsigned value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
static inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long value) {
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
