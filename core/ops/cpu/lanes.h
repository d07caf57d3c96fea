// Sums over rows that lie in the cache, where a loop's vector code loses its time in one chain of additions and in
// adding up a vector's elements one by one: four chains here, and a tree at the end. Vectors are those of AVX2, which
// on AVX-512 machines costs nothing that memory does not hide.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "core/ops/math.h"

namespace trireme::cpu {

inline constexpr int64_t kNumLanes = 8;
using Lanes = float __attribute__((vector_size(kNumLanes * sizeof(float))));

// What the term of a sum reads its operands through: eight elements from `index` on, or one.
struct LoadLanes {
  int64_t index;

  TRIREME_HOST_DEVICE Lanes operator()(const float* p) const {
    Lanes out;
    std::memcpy(&out, p + index, sizeof(out));
    return out;
  }
  TRIREME_HOST_DEVICE Lanes operator()(const bf16* p) const {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + index));
    return std::bit_cast<Lanes>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

struct LoadOne {
  int64_t index;

  template <class T>
  TRIREME_HOST_DEVICE float operator()(const T* p) const {
    return math::load(p + index);
  }
};

TRIREME_HOST_DEVICE float add_lanes(const Lanes& lanes) {
  using Four = float __attribute__((vector_size(16)));
  const Four four =
      __builtin_shufflevector(lanes, lanes, 0, 1, 2, 3) + __builtin_shufflevector(lanes, lanes, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Σ term(load) for `load` at 0 … n−1: `term` is a generic function object, marked always_inline, that reads its
// operands with load(pointer to element 0).
template <class Term>
TRIREME_HOST_DEVICE float sum_of(int64_t n, const Term& term) {
  Lanes a{};
  Lanes b{};
  Lanes c{};
  Lanes d{};
  int64_t i = 0;
  for (; i + 4 * kNumLanes <= n; i += 4 * kNumLanes) {
    a += term(LoadLanes{i});
    b += term(LoadLanes{i + kNumLanes});
    c += term(LoadLanes{i + 2 * kNumLanes});
    d += term(LoadLanes{i + 3 * kNumLanes});
  }
  for (; i + kNumLanes <= n; i += kNumLanes) a += term(LoadLanes{i});
  float rest = 0;
  for (; i < n; ++i) rest += term(LoadOne{i});
  return add_lanes((a + b) + (c + d)) + rest;
}

// Two sums over the same operands in one pass.
struct TwoSums {
  float first;
  float second;
};

template <class First, class Second>
TRIREME_HOST_DEVICE TwoSums sums_of(int64_t n, const First& first, const Second& second) {
  Lanes a{};
  Lanes b{};
  Lanes c{};
  Lanes d{};
  int64_t i = 0;
  for (; i + 2 * kNumLanes <= n; i += 2 * kNumLanes) {
    a += first(LoadLanes{i});
    b += second(LoadLanes{i});
    c += first(LoadLanes{i + kNumLanes});
    d += second(LoadLanes{i + kNumLanes});
  }
  TwoSums rest{};
  for (; i < n; ++i) {
    rest.first += first(LoadOne{i});
    rest.second += second(LoadOne{i});
  }
  return {add_lanes(a + c) + rest.first, add_lanes(b + d) + rest.second};
}

}  // namespace trireme::cpu
