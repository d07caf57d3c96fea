// Attention in bf16 for AVX512-BF16: products of pairs of bf16, summed in fp32 (VDPBF16PS), twice the rate of fp32. P
// and dS are rounded to bf16 as operands; scores, softmax and sums stay fp32. Everything after the pragma is compiled
// for these instructions, so headers of others come before.
#include <immintrin.h>
#include <math.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/ops/cpu/attention_task.h"

#pragma GCC target("arch=x86-64-v4,avx512bf16")
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "core/ops/cpu/attention_passes.h"
#include "core/ops/cpu/simd_avx512.h"

namespace trireme::cpu {

namespace {

struct DotEngine {
  using S = SimdAvx512;
  using Simd = S;
  using F = S::F;
  using I = S::I;
  using In = uint16_t;
  using Left = uint16_t;   // of a row: pairs lie side by side
  using Right = uint32_t;  // rows k (low half) and k+1 of a column
  static constexpr int kPad = 32;
  static constexpr bool kInPlace = false;

  static int depth(int64_t n) { return static_cast<int>((n + 1) / 2); }

  static const float* as_float(const void* p) { return static_cast<const float*>(p); }
  static float* as_float(void* p) { return static_cast<float*>(p); }

  // The contract of FloatEngine::block; `count` pairs, `step` is 1.
  template <int NV, Into into>
  [[gnu::noinline]] static void block(const uint16_t* a, int64_t row, int64_t, const uint32_t* b, int64_t ldb,
                                      int count, float* c, int64_t ldc, const float* factor) {
    F sum[kKeyBlock][NV];
#pragma GCC unroll 8
    for (int m = 0; m < kKeyBlock; ++m) {
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) {
        if constexpr (into == Into::set) {
          sum[m][n] = S::zero();
        } else {
          sum[m][n] = S::load(c + m * ldc + n * 16);
          if constexpr (into == Into::scale_and_add) sum[m][n] = S::mul(sum[m][n], S::load(factor + n * 16));
        }
      }
    }
    for (int k = 0; k < count; ++k) {
      __m512bh right[NV];
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) right[n] = as_pairs(_mm512_load_si512(b + n * 16));
#pragma GCC unroll 8
      for (int m = 0; m < kKeyBlock; ++m) {
        int32_t pair;
        __builtin_memcpy(&pair, a + m * row, sizeof(pair));
        const __m512bh left = as_pairs(_mm512_set1_epi32(pair));
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], left, right[n]);
      }
      a += 2;
      b += ldb;
    }
#pragma GCC unroll 8
    for (int m = 0; m < kKeyBlock; ++m) {
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) S::store(c + m * ldc + n * 16, sum[m][n]);
    }
  }
  [[gnu::always_inline]] static inline __m512bh as_pairs(__m512i x) { return (__m512bh)x; }

  static void copy_rows(const uint16_t* src, int64_t stride, int count, int dim, uint16_t* dst, int64_t padded) {
    for (int i = 0; i < kTile; ++i) {
      if (i + kRowsAhead < count) prefetch_rows(src + (i + kRowsAhead) * stride, stride, 1, dim);
      for (int64_t j = 0; j < padded; j += 32) {
        _mm512_store_si512(dst + i * padded + j, load_first(src + i * stride + j, i < count ? dim - j : 0));
      }
    }
  }
  // The first `n` of 32 elements, the rest zero; n may be larger.
  [[gnu::always_inline]] static inline I load_first(const uint16_t* src, int64_t n) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << (n < 32 ? n : 32)) - 1), src);
  }

  static float dot(const uint16_t* a, const uint16_t* b, int dim) {
    F sum = S::zero();
    for (int j = 0; j < dim; j += 32) {
      sum = _mm512_dpbf16_ps(sum, as_pairs(load_first(a + j, dim - j)), as_pairs(load_first(b + j, dim - j)));
    }
    return S::sum(sum);
  }

  // 32-bit elements, [rows, cols] to [cols, rows], both multiples of 16.
  static void transpose(const void* src, int64_t rows, int64_t cols, void* dst) {
    for (int64_t j = 0; j < cols; j += 16) {
      for (int64_t i = 0; i < rows; i += 16) {
        S::transpose16(as_float(src) + i * cols + j, cols, as_float(dst) + j * rows + i, rows);
      }
    }
  }
  static void columns_to_right(const uint16_t* rows, int64_t padded, uint32_t* dst) {
    transpose(rows, kTile, padded / 2, dst);
  }
  static const uint32_t* rows_to_right(const uint16_t* rows, int64_t padded, uint32_t* dst) {
    pair_rows(rows, padded, dst);
    return dst;
  }
  static void rows_to_transposed_left(const uint16_t* rows, int64_t padded, float* tmp, uint16_t* dst) {
    pair_rows(rows, padded, tmp);
    transpose(tmp, kTile / 2, padded, dst);
  }
  // [kTile, padded] to pairs [kTile / 2, padded].
  static void pair_rows(const uint16_t* rows, int64_t padded, void* dst) {
    const __m512i low = interleaved_lanes(0), high = interleaved_lanes(16);
    for (int i = 0; i < kTile; i += 2) {
      for (int64_t j = 0; j < padded; j += 32) {
        const __m512i even = _mm512_load_si512(rows + i * padded + j);
        const __m512i odd = _mm512_load_si512(rows + (i + 1) * padded + j);
        float* const at = as_float(dst) + i / 2 * padded + j;
        _mm512_store_si512(at, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_store_si512(at + 16, _mm512_permutex2var_epi16(even, high, odd));
      }
    }
  }
  // first, 32 + first, first + 1, …: indices of _mm512_permutex2var_epi16 that interleave two registers.
  static __m512i interleaved_lanes(int first) {
    alignas(64) uint16_t index[32];
    for (int i = 0; i < 16; ++i) {
      index[2 * i] = static_cast<uint16_t>(first + i);
      index[2 * i + 1] = static_cast<uint16_t>(32 + first + i);
    }
    return _mm512_load_si512(index);
  }

  // Two keys rounded to bf16 at once: p0 in the lower half, p1 in the upper.
  [[gnu::always_inline]] static inline I round_keys(F p0, F p1) { return (I)_mm512_cvtne2ps_pbh(p1, p0); }
  [[gnu::always_inline]] static inline void store_right(uint32_t* dst, int key, int lane, F p0, F p1) {
    _mm512_store_si512(dst + key / 2 * kTile + lane, S::interleave_halves(round_keys(p0, p1)));
  }
  [[gnu::always_inline]] static inline void store_left(uint16_t* dst, int key, int lane, F p0, F p1) {
    const I both = round_keys(p0, p1);
    store_half(dst + key * kTile + lane, _mm512_castsi512_si256(both));
    store_half(dst + (key + 1) * kTile + lane, _mm512_extracti64x4_epi64(both, 1));
  }
  [[gnu::always_inline]] static inline void store_half(uint16_t* dst, __m256i x) {
    _mm256_store_si256(static_cast<__m256i*>(static_cast<void*>(dst)), x);
  }
};

}  // namespace

constinit const AttentionKernels kAttentionAvx512DotBf16 =
    attention_kernels<DotEngine>("avx512_bf16", AttentionIsa::avx512_bf16);

}  // namespace trireme::cpu
