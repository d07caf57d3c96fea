// Sixteen lanes of AVX-512, for attention_tiles.h and products. Included once, by a source file that has switched its target to
// AVX-512; everything is local to that file, so that no other file can pick up code that its processor does not have.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>

namespace trireme::cpu {
namespace {

struct SimdAvx512 {
  using F = __m512;     // 16 floats
  using I = __m512i;    // 16 int32
  using M = __mmask16;  // 16 booleans

  static constexpr int kMr = 8;  // rows of a register block; its columns are one or two F
  static constexpr int kNv = 2;

#define TRIREME_SIMD [[gnu::always_inline]] static inline
  TRIREME_SIMD F zero() { return _mm512_setzero_ps(); }
  TRIREME_SIMD F set1(float x) { return _mm512_set1_ps(x); }
  TRIREME_SIMD F load(const float* p) { return _mm512_load_ps(p); }
  TRIREME_SIMD void store(float* p, F x) { _mm512_store_ps(p, x); }
  TRIREME_SIMD F add(F a, F b) { return _mm512_add_ps(a, b); }
  TRIREME_SIMD F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  TRIREME_SIMD F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  TRIREME_SIMD F div(F a, F b) { return _mm512_div_ps(a, b); }
  TRIREME_SIMD F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  TRIREME_SIMD F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  TRIREME_SIMD float sum(F a) { return _mm512_reduce_add_ps(a); }

  TRIREME_SIMD I load_int(const int32_t* p) { return _mm512_load_si512(p); }
  // Lanes with lo <= x <= hi.
  TRIREME_SIMD M between(I lo, int32_t x, I hi) {
    const I v = _mm512_set1_epi32(x);
    return _mm512_mask_cmple_epi32_mask(_mm512_cmple_epi32_mask(lo, v), v, hi);
  }
  TRIREME_SIMD F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }

  // The parts of 2^x, x >= -126: the fraction x - floor(x), and y · 2^floor(x), or 0 where x < -126 was cut off.
  TRIREME_SIMD F fraction(F x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  TRIREME_SIMD F scale_by_power(F y, F x) {
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, set1(-126.0f), _CMP_NLE_UQ), y, x);
  }

  // The first `n` of 16 elements, the rest zero; any alignment.
  TRIREME_SIMD M first(int n) { return static_cast<M>((1u << n) - 1u); }
  TRIREME_SIMD F load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  TRIREME_SIMD F load_first(const uint16_t* p, int n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)), 16));
  }
  TRIREME_SIMD void store_first(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  TRIREME_SIMD void store_first(uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }

  // Rounds to nearest even; NaN stays NaN.
  TRIREME_SIMD __m256i to_bf16(F x) {
    const I bits = _mm512_castps_si512(x);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const I rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    const I quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    const I result = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
  }

  // Elements 0, 16, 1, 17, … of 32 elements of 16 bits.
  TRIREME_SIMD I interleave_halves(I x) { return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved.data()), x); }
  alignas(64) static constexpr auto kInterleaved = [] {
    std::array<uint16_t, 32> lanes{};
    for (size_t i = 0; i < 32; ++i) lanes[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
    return lanes;
  }();

  // dst[j][i] = src[i][j] for 16×16 elements of 32 bits; strides in elements, rows of dst aligned to 64 bytes.
  TRIREME_SIMD void transpose16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
    F r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(src + i * src_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
      r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    // r[4a + b] holds column 4c + b of rows 4a … 4a + 3 in its quarter c.
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      const F low01 = _mm512_shuffle_f32x4(r[b], r[4 + b], 0x44);
      const F high01 = _mm512_shuffle_f32x4(r[b], r[4 + b], 0xEE);
      const F low23 = _mm512_shuffle_f32x4(r[8 + b], r[12 + b], 0x44);
      const F high23 = _mm512_shuffle_f32x4(r[8 + b], r[12 + b], 0xEE);
      _mm512_store_ps(dst + b * dst_stride, _mm512_shuffle_f32x4(low01, low23, 0x88));
      _mm512_store_ps(dst + (4 + b) * dst_stride, _mm512_shuffle_f32x4(low01, low23, 0xDD));
      _mm512_store_ps(dst + (8 + b) * dst_stride, _mm512_shuffle_f32x4(high01, high23, 0x88));
      _mm512_store_ps(dst + (12 + b) * dst_stride, _mm512_shuffle_f32x4(high01, high23, 0xDD));
    }
  }
#undef TRIREME_SIMD
};

}  // namespace
}  // namespace trireme::cpu
