// Sixteen lanes as two AVX2 registers for attention_tiles.h; the counterpart of simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace trireme::cpu {
namespace {

struct SimdAvx2 {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  using M = F;  // all bits of a lane set or none

  static constexpr int kMr = 4;  // rows of a register block; its columns are one F
  static constexpr int kNv = 1;

#define TRIREME_SIMD [[gnu::always_inline]] static inline
  TRIREME_SIMD F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  TRIREME_SIMD F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  TRIREME_SIMD F load(const float* p) { return {_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
  TRIREME_SIMD void store(float* p, F x) {
    _mm256_store_ps(p, x.lo);
    _mm256_store_ps(p + 8, x.hi);
  }
  TRIREME_SIMD F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  TRIREME_SIMD F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  TRIREME_SIMD F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  TRIREME_SIMD F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  TRIREME_SIMD F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
  TRIREME_SIMD F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  TRIREME_SIMD float sum(F a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  TRIREME_SIMD __m256i load8(const int32_t* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(static_cast<const void*>(p)));
  }
  TRIREME_SIMD I load_int(const int32_t* p) { return {load8(p), load8(p + 8)}; }
  TRIREME_SIMD __m256 between8(__m256i lo, __m256i v, __m256i hi) {
    const __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(lo, v), _mm256_cmpgt_epi32(v, hi));
    return _mm256_castsi256_ps(_mm256_xor_si256(outside, _mm256_set1_epi32(-1)));
  }
  TRIREME_SIMD M between(I lo, int32_t x, I hi) {
    const __m256i v = _mm256_set1_epi32(x);
    return {between8(lo.lo, v, hi.lo), between8(lo.hi, v, hi.hi)};
  }
  TRIREME_SIMD F select(M m, F a, F b) {
    return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
  }

  TRIREME_SIMD F fraction(F x) {
    return {_mm256_sub_ps(x.lo, _mm256_floor_ps(x.lo)), _mm256_sub_ps(x.hi, _mm256_floor_ps(x.hi))};
  }
  TRIREME_SIMD __m256 scale_by_power8(__m256 y, __m256 x) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvttps_epi32(_mm256_floor_ps(x)), 23);
    const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
    return _mm256_and_ps(scaled, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLE_UQ));
  }
  TRIREME_SIMD F scale_by_power(F y, F x) { return {scale_by_power8(y.lo, x.lo), scale_by_power8(y.hi, x.hi)}; }

  TRIREME_SIMD F load_first(const float* p, int n) {
    if (n == 16) return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    alignas(32) float copy[16] = {};
    for (int i = 0; i < n; ++i) copy[i] = p[i];
    return load(copy);
  }
  TRIREME_SIMD __m256 widen(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  TRIREME_SIMD F load_first(const uint16_t* p, int n) {
    if (n == 16) return {widen(p), widen(p + 8)};
    uint16_t copy[16] = {};
    for (int i = 0; i < n; ++i) copy[i] = p[i];
    return {widen(copy), widen(copy + 8)};
  }
  TRIREME_SIMD void store_first(float* p, F x, int n) {
    if (n == 16) {
      _mm256_storeu_ps(p, x.lo);
      _mm256_storeu_ps(p + 8, x.hi);
      return;
    }
    alignas(32) float copy[16];
    store(copy, x);
    for (int i = 0; i < n; ++i) p[i] = copy[i];
  }
  // Rounds to nearest even; NaN stays NaN. The upper half of each 32-bit lane is zero.
  TRIREME_SIMD __m256i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  }
  TRIREME_SIMD void store_first(uint16_t* p, F x, int n) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(to_bf16(x.lo), to_bf16(x.hi)), 0xD8);
    if (n == 16) {
      _mm256_storeu_si256(static_cast<__m256i*>(static_cast<void*>(p)), packed);
      return;
    }
    alignas(32) uint16_t copy[16];
    _mm256_store_si256(static_cast<__m256i*>(static_cast<void*>(copy)), packed);
    for (int i = 0; i < n; ++i) p[i] = copy[i];
  }

  TRIREME_SIMD void transpose8(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) r[i] = _mm256_load_ps(src + i * src_stride);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      _mm256_store_ps(dst + b * dst_stride, _mm256_permute2f128_ps(r[b], r[4 + b], 0x20));
      _mm256_store_ps(dst + (4 + b) * dst_stride, _mm256_permute2f128_ps(r[b], r[4 + b], 0x31));
    }
  }
  TRIREME_SIMD void transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
    for (int i = 0; i < 16; i += 8) {
      for (int j = 0; j < 16; j += 8)
        transpose8(src + i * src_stride + j, src_stride, dst + j * dst_stride + i, dst_stride);
    }
  }
#undef TRIREME_SIMD
};

}  // namespace
}  // namespace trireme::cpu
