// Sums over rows that lie in the cache, where a loop's vector code loses its time in one chain of additions and in
// adding up a vector's elements one by one: two chains here, and a tree at the end.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "core/ops/math.h"

namespace trireme::cpu {

inline constexpr int64_t kNumLanes = 16;
using Lanes = float __attribute__((vector_size(kNumLanes * sizeof(float))));

// What the term of a sum reads its operands through: sixteen elements from `index` on, or one.
struct LoadLanes {
  int64_t index;

  TRIREME_HOST_DEVICE Lanes operator()(const float* p) const {
    Lanes out;
    std::memcpy(&out, p + index, sizeof(out));
    return out;
  }
  TRIREME_HOST_DEVICE Lanes operator()(const bf16* p) const {
    using Halves = uint16_t __attribute__((vector_size(kNumLanes * sizeof(uint16_t))));
    using Words = uint32_t __attribute__((vector_size(kNumLanes * sizeof(uint32_t))));
    Halves halves;
    std::memcpy(&halves, p + index, sizeof(halves));
    const Words words = __builtin_convertvector(halves, Words) << 16;
    return std::bit_cast<Lanes>(words);
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
  using Eight = float __attribute__((vector_size(32)));
  using Four = float __attribute__((vector_size(16)));
  const Eight eight = __builtin_shufflevector(lanes, lanes, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(lanes, lanes, 8, 9, 10, 11, 12, 13, 14, 15);
  const Four four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Σ term(load) for `load` at 0 … n−1: `term` is a generic function object, marked always_inline, that reads its
// operands with load(pointer to element 0).
template <class Term>
TRIREME_HOST_DEVICE float sum_of(int64_t n, const Term& term) {
  Lanes a{};
  Lanes b{};
  int64_t i = 0;
  for (; i + 2 * kNumLanes <= n; i += 2 * kNumLanes) {
    a += term(LoadLanes{i});
    b += term(LoadLanes{i + kNumLanes});
  }
  if (i + kNumLanes <= n) {
    a += term(LoadLanes{i});
    i += kNumLanes;
  }
  float rest = 0;
  for (; i < n; ++i) rest += term(LoadOne{i});
  return add_lanes(a + b) + rest;
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
  int64_t i = 0;
  for (; i + kNumLanes <= n; i += kNumLanes) {
    a += first(LoadLanes{i});
    b += second(LoadLanes{i});
  }
  TwoSums rest{};
  for (; i < n; ++i) {
    rest.first += first(LoadOne{i});
    rest.second += second(LoadOne{i});
  }
  return {add_lanes(a) + rest.first, add_lanes(b) + rest.second};
}

}  // namespace trireme::cpu
