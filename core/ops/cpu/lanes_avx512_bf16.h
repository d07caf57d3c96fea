// Sixteen floats as a value of core/ops/math.h, with bf16 in memory. Included once by a source file that has switched
// its target to AVX-512 BF16; local to it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/ops/cpu/exp2_lanes.h"
#include "core/ops/cpu/simd_avx512.h"
#include "core/tensor/dtype.h"

namespace trireme::cpu {
namespace {

#define TRIREME_LANES [[gnu::always_inline]] inline
struct Lanes16 {
  __m512 x;

  TRIREME_LANES Lanes16(__m512 value) : x(value) {}
  TRIREME_LANES Lanes16(float value) : x(_mm512_set1_ps(value)) {}

  TRIREME_LANES friend Lanes16 operator+(Lanes16 a, Lanes16 b) { return _mm512_add_ps(a.x, b.x); }
  TRIREME_LANES friend Lanes16 operator*(Lanes16 a, Lanes16 b) { return _mm512_mul_ps(a.x, b.x); }
  TRIREME_LANES friend Lanes16 operator-(Lanes16 a) { return _mm512_xor_ps(a.x, _mm512_set1_ps(-0.0f)); }
  TRIREME_LANES friend Lanes16 fma(Lanes16 a, Lanes16 b, Lanes16 c) { return _mm512_fmadd_ps(a.x, b.x, c.x); }
  // The second operand where one is NaN.
  TRIREME_LANES friend Lanes16 at_least(Lanes16 low, Lanes16 a) { return _mm512_max_ps(low.x, a.x); }
  TRIREME_LANES friend Lanes16 at_most(Lanes16 high, Lanes16 a) { return _mm512_min_ps(high.x, a.x); }
};

// Takes the place of math::Portable: eˣ is off by 2 + |x| units in the last place, 0 below 2^-126.
struct FastLanes {
  TRIREME_LANES static Lanes16 exp(Lanes16 x) { return exp2_lanes<SimdAvx512>((x * 1.44269504f).x); }
  TRIREME_LANES static Lanes16 reciprocal(Lanes16 x) { return _mm512_div_ps(_mm512_set1_ps(1.0f), x.x); }
};

// Elements index … index + 15 of arrays.
struct WholeVector {
  int64_t index;

  TRIREME_LANES Lanes16 load(const float* p) const { return _mm512_loadu_ps(p + index); }
  TRIREME_LANES Lanes16 load(const bf16* p) const {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + index));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  TRIREME_LANES void store(bf16* p, Lanes16 value) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + index), (__m256i)_mm512_cvtneps_pbh(value.x));
  }
  TRIREME_LANES void prefetch(const bf16* p) const {
    _mm_prefetch(reinterpret_cast<const char*>(p + index), _MM_HINT_T0);
  }
};

// The first of them, where the arrays end sooner; the other lanes are zero.
struct PartOfVector {
  int64_t index;
  __mmask16 there;

  TRIREME_LANES Lanes16 load(const float* p) const { return _mm512_maskz_loadu_ps(there, p + index); }
  TRIREME_LANES Lanes16 load(const bf16* p) const {
    const __m256i halves = _mm256_maskz_loadu_epi16(there, p + index);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  TRIREME_LANES void store(bf16* p, Lanes16 value) const {
    _mm256_mask_storeu_epi16(p + index, there, (__m256i)_mm512_cvtneps_pbh(value.x));
  }
  TRIREME_LANES void prefetch(const bf16* p) const {
    _mm_prefetch(reinterpret_cast<const char*>(p + index), _MM_HINT_T0);
  }
};

// Calls body(at) for the vectors of arrays of n elements; `at` reads and writes them.
template <class Body>
TRIREME_LANES void for_lanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(WholeVector{i});
  if (i < n) body(PartOfVector{i, static_cast<__mmask16>((1u << (n - i)) - 1)});
}
#undef TRIREME_LANES

}  // namespace
}  // namespace trireme::cpu
