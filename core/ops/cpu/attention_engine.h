// Operands and products of tiles for attention_tiles.h: an *engine* says how a tile lies in memory as the left and as
// the right operand of a product, and computes blocks of C [M, N] (+)= A [M, K] · B [K, N] with fp32 sums.
//
// Left operands are read one element (f32) or one pair of neighbours along K (bf16) at a time and broadcast; right
// operands are read as vectors along N. `Left` and `Right` are what one such read covers: f32: a float, a float; bf16:
// one of the two elements, a pair of two rows k, k+1 in 32 bits. Every sum runs over k in ascending order, so a block's
// bits depend on nothing but its operands.
//
// Included by a source file per instruction set, after its target is switched; everything is local to that file.
#pragma once

#include <cstdint>

namespace trireme::cpu {
namespace {

constexpr int kTile = 64;      // query positions, and key positions, of a tile
constexpr int kKeyBlock = 8;   // masked parts of a tile are skipped in blocks of 8 keys …
constexpr int kRowGroup = 16;  // … by 16 query positions: the lanes of a vector
constexpr int kNumGroups = kTile / kRowGroup;
constexpr int kNumBlocks = kTile / kKeyBlock;

// What a product does with what C held before.
enum class Into { set, add, scale_and_add };

[[gnu::always_inline]] inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Asks for `count` rows of `dim` elements ahead of their use. Always inlined, as must be what calls nothing but this: GCC
// takes a function that only prefetches for one without effects and drops the call.
template <class In>
[[gnu::always_inline]] inline void prefetch_rows(const In* src, int64_t stride, int64_t count, int dim) {
  for (int64_t i = 0; i < count; ++i) {
    for (int j = 0; j < dim; j += static_cast<int>(64 / sizeof(In))) __builtin_prefetch(src + i * stride + j, 0, 2);
  }
}
constexpr int kRowsAhead = 12;  // rows in flight while a tile is copied: strided rows defeat the hardware's prefetcher

// fp32 operands. `In` is the dtype of the tensors: float, or uint16_t for the bits of bf16, converted on the way.
template <class S, class InT>
struct FloatEngine {
  using Simd = S;
  using In = InT;
  using F = typename S::F;
  using Left = float;
  using Right = float;
  static constexpr int kPad = 16;  // head dims are padded with zeros to a multiple
  // A left operand can be read transposed, and a tile of scores serves in place as left and as right operand.
  static constexpr bool kInPlace = true;

  [[gnu::always_inline]] static int depth(int64_t n) { return static_cast<int>(n); }  // rows of a right operand

  // C rows [0, kKeyBlock), columns [0, NV·16). A(m, k) = a[m·row + k·step].
  template <int NV, Into into>
  [[gnu::noinline]] static void block(const float* a, int64_t row, int64_t step, const float* b, int64_t ldb, int count,
                                      float* c, int64_t ldc, const float* factor) {
    for (int half = 0; half < kKeyBlock; half += S::kMr) {
      registers<NV, into>(a + half * row, row, step, b, ldb, count, c + half * ldc, ldc, factor);
    }
  }

  template <int NV, Into into>
  [[gnu::always_inline]] static inline void registers(const float* a, int64_t row, int64_t step, const float* b,
                                                      int64_t ldb, int count, float* c, int64_t ldc,
                                                      const float* factor) {
    F sum[S::kMr][NV];
#pragma GCC unroll 8
    for (int m = 0; m < S::kMr; ++m) {
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
      F right[NV];
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) right[n] = S::load(b + n * 16);
#pragma GCC unroll 8
      for (int m = 0; m < S::kMr; ++m) {
        const F left = S::set1(a[m * row]);
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) sum[m][n] = S::fma(left, right[n], sum[m][n]);
      }
      a += step;
      b += ldb;
    }
#pragma GCC unroll 8
    for (int m = 0; m < S::kMr; ++m) {
#pragma GCC unroll 2
      for (int n = 0; n < NV; ++n) S::store(c + m * ldc + n * 16, sum[m][n]);
    }
  }

  // Copies `count` rows of `dim` elements to [kTile, padded], zeros elsewhere.
  static void copy_rows(const In* src, int64_t stride, int count, int dim, float* dst, int64_t padded) {
    for (int i = 0; i < kTile; ++i) {
      if (i + kRowsAhead < count) prefetch_rows(src + (i + kRowsAhead) * stride, stride, 1, dim);
      for (int64_t j = 0; j < padded; j += 16) {
        const int n = i < count ? static_cast<int>(dim - j < 16 ? dim - j : 16) : 0;
        S::store(dst + i * padded + j, n > 0 ? S::load_first(src + i * stride + j, n) : S::zero());
      }
    }
  }
  // From such a copy: the right operand whose k are the columns, [padded, kTile].
  static void columns_to_right(const float* rows, int64_t padded, float* dst) {
    for (int64_t j = 0; j < padded; j += 16) {
      for (int i = 0; i < kTile; i += 16) S::transpose16(rows + i * padded + j, padded, dst + j * kTile + i, kTile);
    }
  }
  // From such a copy: the right operand whose k are the rows: the copy itself.
  static const float* rows_to_right(const float* rows, int64_t, float*) { return rows; }
  static void rows_to_transposed_left(const float*, int64_t, float*, float*) {}

  // The sum of products of two rows of the tensors.
  static float dot(const In* a, const In* b, int dim) {
    F sum = S::zero();
    for (int j = 0; j < dim; j += 16) {
      const int n = dim - j < 16 ? dim - j : 16;
      sum = S::fma(S::load_first(a + j, n), S::load_first(b + j, n), sum);
    }
    return S::sum(sum);
  }

  // Keys key, key+1 (key even) and 16 positions of P or dS, as a right operand [keys, kTile] …
  [[gnu::always_inline]] static inline void store_right(float* dst, int key, int lane, F p0, F p1) {
    S::store(dst + key * kTile + lane, p0);
    S::store(dst + (key + 1) * kTile + lane, p1);
  }
  // … and as a left operand [keys, kTile].
  [[gnu::always_inline]] static inline void store_left(float* dst, int key, int lane, F p0, F p1) {
    store_right(dst, key, lane, p0, p1);
  }
};

// Writes columns [0, count) of src [padded, kTile] (dims by positions) as rows of `dim` elements, each position times
// its factor. `tmp` holds [kTile, padded].
template <class S, class In>
void write_transposed(const float* src, int64_t padded, const float* factor, int count, int dim, float* tmp, In* dst,
                      int64_t stride) {
  for (int64_t j = 0; j < padded; j += 16) {
    for (int i = 0; i < count; i += 16) S::transpose16(src + j * kTile + i, kTile, tmp + i * padded + j, padded);
  }
  for (int i = 0; i < count; ++i) {
    const typename S::F scale = S::set1(factor[i]);
    for (int64_t j = 0; j < dim; j += 16) {
      S::store_first(dst + i * stride + j, S::mul(S::load(tmp + i * padded + j), scale),
                     static_cast<int>(dim - j < 16 ? dim - j : 16));
    }
  }
}

}  // namespace
}  // namespace trireme::cpu
