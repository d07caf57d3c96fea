// Packing of bf16 matrices into 32-bit words of two, as VDPBF16PS multiplies them: a "pair" is two neighbours along
// the depth, k and k + 1. Included once, by a source file that has switched its target to AVX-512 BF16; everything is
// local to that file.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/ops/cpu/simd_avx512.h"
#include "core/tensor/dtype.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kVector = 16;  // words of a register
constexpr int64_t kVectorBytes = 64;

inline int64_t num_pairs(int64_t depth) { return (depth + 1) / 2; }

// Masks of the first `n` elements; any n.
inline __mmask16 first_words(int64_t n) { return static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1); }
inline __mmask32 first_halves(int64_t n) {
  return static_cast<__mmask32>((uint64_t{1} << std::clamp<int64_t>(n, 0, 32)) - 1);
}

// Always inlined: GCC takes a function that does nothing but prefetch for one without effects and drops the call.
[[gnu::always_inline]] inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Pairs of an operand as they lie in memory: the one of row (or column) i and pair p is the word at
// data + i * step + p * pair_step; steps in bytes.
struct Pairs {
  const char* data;
  int64_t step, pair_step;
};

// Bytes from one packed strip of V vectors to the next. Their size is often a multiple of 4096 bytes: a line more
// keeps the same row of all strips out of one set of the cache.
inline int64_t packed_strip_bytes(int64_t depth, int64_t vectors) {
  return (num_pairs(depth) * vectors + 1) * kVectorBytes;
}

// The first `n` of 16 elements. Whole vectors are read without a mask, because a masked load waits for the cache lines
// of what it masks, too.
inline __m256i load_halves(const bf16* row, int64_t n) {
  return n >= kVector ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row))
                      : _mm256_maskz_loadu_epi16(first_words(n), row);
}

// A matrix [depth, width] with the depth along its columns: pairs come from two rows. They are packed in strips of V
// vectors, [num_pairs, V * 16] words each, one strip behind the other. A row that is missing counts as zeros; words
// beyond the width are zero or left alone. `to` is aligned to 64 bytes.
template <int V>
void pack_rows(const bf16* from, int64_t ld, int64_t depth, int64_t width, char* to) {
  constexpr int64_t kRowsAhead = 16;  // rows lie far apart: the CPU's own prefetcher doesn't see them coming
  const int64_t strip_bytes = packed_strip_bytes(depth, V);
  for (int64_t k = 0; k < depth; k += 2) {
    for (int64_t ahead = k + kRowsAhead; ahead < std::min(k + kRowsAhead + 2, depth); ++ahead) {
      for (int64_t i = 0; i < width; i += 32) prefetch(from + ahead * ld + i);
    }
    const bf16* even = from + k * ld;
    const bf16* odd = k + 1 < depth ? even + ld : nullptr;
    char* word = to + k / 2 * V * kVectorBytes;
    for (int64_t i = 0; i < width; word += strip_bytes) {
#pragma GCC unroll 3
      for (int v = 0; v < V && i < width; ++v, i += kVector) {
        const __m256i low = load_halves(even + i, width - i);
        const __m256i high = odd == nullptr ? _mm256_setzero_si256() : load_halves(odd + i, width - i);
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        _mm512_store_si512(word + v * kVectorBytes, SimdAvx512::interleave_halves(both));
      }
    }
  }
}

// A matrix [width, depth] with the depth along its rows, which hold pairs already: they are transposed, 16 x 16 words
// at a time. The result is that of pack_rows.
template <int V>
void pack_columns(const bf16* from, int64_t ld, int64_t depth, int64_t width, char* to) {
  constexpr int64_t kStripBytes = V * kVectorBytes;
  const int64_t pairs = num_pairs(depth);
  for (int64_t i = 0; i < width; i += kVector) {
    char* vector = to + i / kVector / V * packed_strip_bytes(depth, V) + i / kVector % V * kVectorBytes;
    for (int64_t p = 0; p < pairs; p += kVector) {
      const bf16* block = from + i * ld + 2 * p;
      for (int64_t r = kVector; r < std::min(2 * kVector, width - i); ++r) prefetch(block + r * ld);
      float* out = reinterpret_cast<float*>(vector + p * kStripBytes);
      if (i + kVector <= width && 2 * (p + kVector) <= depth && ld % 2 == 0) {
        SimdAvx512::transpose16(reinterpret_cast<const float*>(block), ld / 2, out, V * kVector);
        continue;
      }
      alignas(64) float rows[kVector * kVector];
      alignas(64) float columns[kVector * kVector];
      for (int64_t r = 0; r < kVector; ++r) {
        const __mmask32 there = i + r < width ? first_halves(depth - 2 * p) : 0;
        _mm512_store_si512(rows + r * kVector, _mm512_maskz_loadu_epi16(there, block + r * ld));
      }
      SimdAvx512::transpose16(rows, kVector, columns, kVector);
      for (int64_t q = 0; q < std::min(kVector, pairs - p); ++q) {
        std::memcpy(out + q * V * kVector, columns + q * kVector, kVectorBytes);
      }
    }
  }
}

// Rows of an odd number of elements, copied with a zero behind each.
inline Pairs pad_rows(const bf16* from, int64_t ld, int64_t depth, int64_t rows, char* to) {
  const int64_t row_bytes = (depth + 1) * 2;
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(to + i * row_bytes, from + i * ld, static_cast<size_t>(depth) * 2);
    std::memset(to + (i + 1) * row_bytes - 2, 0, 2);
  }
  return {to, row_bytes, 4};
}

}  // namespace
}  // namespace trireme::cpu
