// Products of bf16 matrices with AVX-512 BF16, whose VDPBF16PS adds two products of bf16 to each of 16 fp32 sums. For
// CPUs without AMX.
//
// The micro-kernel keeps a tile of C, 8 rows x 48 columns, in 24 of the 32 registers through a block of the depth: for
// each pair of terms, 3 vectors of B meet 8 broadcast words of A. The blocks around it are those of Goto and van de
// Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008):
//
//   columns, depth   B is packed in strips of 48 columns: what the micro-kernel reads lies in a row
//   rows             a block of A stays in the second-level cache while all strips pass over it. Where the depth lies
//                    along the rows of A (forward, input gradients) they hold pairs already and are read where they
//                    are; for weight gradients A is packed too
//   strips, tiles    a strip stays in the first- or second-level cache while the tiles pass over it
//
// Sums over several blocks of the depth are kept in fp32: in C itself, or in scratch memory when C is bf16.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/ops/cpu/gemm_backend.h"

#pragma GCC target("arch=x86-64-v4,avx512bf16,prfchw")
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "core/ops/cpu/gemm_pairs_avx512.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kTile = 8;  // rows of C at a time
constexpr int kStripVectors = 3;
constexpr int64_t kStrip = kStripVectors * kVector;  // columns of C at a time
constexpr int64_t kStripBytes = kStrip * 4;          // of a pair of all columns

constexpr int64_t kBlockCols = 22 * kStrip;  // of B packed at once
constexpr int64_t kBlockDepth = 1024;        // where there are several blocks
constexpr int64_t kLongestDepth = 2048;      // of the only block of a bf16 C, which then needs no fp32 sums
constexpr int64_t kBlockSums = 1024;         // rows of fp32 sums of a bf16 C
constexpr int64_t kBlockBytes = 400 << 10;   // of A: less than half a second-level cache

MatrixOut element_at(MatrixOut x, int64_t row, int64_t col) {
  if (x.data != nullptr) x.data = static_cast<char*>(x.data) + (row * x.ld + col) * dtype_bytes(x.dtype);
  return x;
}

// C[rows, cols] = alpha * sum + added, for one strip.
struct Tile {
  Pairs a;
  const char* b;  // [pairs, kStrip] words
  int64_t pairs;
  int64_t cols;  // 1 … kStrip
  float alpha;
  MatrixOut added;  // nothing where data is null
  MatrixOut c;
};

__m512 load_vector(const MatrixOut& x, int64_t row, int64_t col, __mmask16 mask) {
  const int64_t at = row * x.ld + col;
  if (x.dtype == DType::f32) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(x.data) + at);
  const __m256i halves = _mm256_maskz_loadu_epi16(mask, static_cast<const bf16*>(x.data) + at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

void store_vector(const MatrixOut& x, int64_t row, int64_t col, __mmask16 mask, __m512 value) {
  const int64_t at = row * x.ld + col;
  if (x.dtype == DType::f32) {
    _mm512_mask_storeu_ps(static_cast<float*>(x.data) + at, mask, value);
  } else {
    _mm256_mask_storeu_epi16(static_cast<bf16*>(x.data) + at, mask, (__m256i)_mm512_cvtneps_pbh(value));
  }
}

// The cache lines that a tile will write are fetched while it is summed.
[[gnu::always_inline]] inline void prefetch_tile(const MatrixOut& c, int64_t rows, int64_t cols) {
  const int64_t element = c.dtype == DType::f32 ? 4 : 2;
  const char* row = static_cast<const char*>(c.data);
  for (int64_t r = 0; r < rows; ++r, row += c.ld * element) {
    for (int64_t i = 0; i < cols * element; i += 64) _mm_prefetch(row + i, _MM_HINT_ET0);
  }
}

// R rows, V vectors of columns.
template <int R, int V>
void micro_kernel(const Tile& t) {
  prefetch_tile(t.c, R, t.cols);
  __m512 sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const char* b = t.b;
  const int64_t step = t.a.step;
  // Rows in threes: their addresses are one register, plus 0, 1 or 2 steps.
  const char* a[(R + 2) / 3];
#pragma GCC unroll 3
  for (int i = 0; i < (R + 2) / 3; ++i) a[i] = t.a.data + 3 * i * step;
  for (int64_t p = 0; p < t.pairs; ++p) {
    __m512bh right[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) right[v] = (__m512bh)_mm512_load_si512(b + v * kVectorBytes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      std::memcpy(&pair, a[r / 3] + r % 3 * step, sizeof(pair));
      const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
    }
#pragma GCC unroll 3
    for (int i = 0; i < (R + 2) / 3; ++i) a[i] += t.a.pair_step;
    b += kStripBytes;
  }
  const __m512 alpha = _mm512_set1_ps(t.alpha);
#pragma GCC unroll 3
  for (int v = 0; v < V; ++v) {
    const __mmask16 mask = first_words(t.cols - v * kVector);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      __m512 value = _mm512_mul_ps(alpha, sums[r][v]);
      if (t.added.data != nullptr) value = _mm512_add_ps(value, load_vector(t.added, r, v * kVector, mask));
      store_vector(t.c, r, v * kVector, mask, value);
    }
  }
}

// Takes R rows off the top of what is left of a tile, if there are so many.
template <int R>
void multiply_rows(Tile& t, int64_t& rows) {
  if (rows < R) return;
  switch ((t.cols + kVector - 1) / kVector) {
    case 1: micro_kernel<R, 1>(t); break;
    case 2: micro_kernel<R, 2>(t); break;
    default: micro_kernel<R, 3>(t); break;
  }
  rows -= R;
  t.a.data += R * t.a.step;
  t.added = element_at(t.added, R, 0);
  t.c = element_at(t.c, R, 0);
}

void multiply_tile(Tile t, int64_t rows) {
  multiply_rows<8>(t, rows);
  multiply_rows<4>(t, rows);
  multiply_rows<2>(t, rows);
  multiply_rows<1>(t, rows);
}

char* scratch_bytes(int slot, int64_t bytes) { return reinterpret_cast<char*>(thread_scratch(slot, (bytes + 3) / 4)); }

// Rows of op(A) as the micro-kernel reads them.
class LeftRows {
 public:
  explicit LeftRows(const GemmArgs& args) : a_(args.a), depth_(args.k) {
    is_packed_ = a_.transpose == Transpose::yes;
    is_padded_ = !is_packed_ && depth_ % 2 != 0;
    // Packed blocks begin and end at the edges of cache lines, if the matrix does.
    const int64_t unit = is_packed_ ? 2 * kVector : kTile;
    block_rows_ = std::max(unit, kBlockBytes / (4 * num_pairs(depth_)) / unit * unit);
    const int64_t num_strips = (block_rows_ + kVector - 1) / kVector;
    if (is_packed_ || is_padded_) scratch_ = scratch_bytes(/*slot=*/1, num_strips * packed_strip_bytes(depth_, 1));
  }

  int64_t block_rows() const { return block_rows_; }

  // Makes `rows` rows from `row` on ready.
  void load(int64_t row, int64_t rows) {
    const auto* from = static_cast<const bf16*>(element_of(a_, row, 0));
    if (is_packed_) {
      pack_rows<1>(from, a_.ld, depth_, rows, scratch_);
    } else if (is_padded_) {
      in_place_ = pad_rows(from, a_.ld, depth_, rows, scratch_);
    } else {
      in_place_ = {reinterpret_cast<const char*>(from), a_.ld * 2, 4};
    }
  }

  // Row `i` of them, and those below in its tile.
  Pairs tile(int64_t i) const {
    if (!is_packed_) return {in_place_.data + i * in_place_.step, in_place_.step, in_place_.pair_step};
    const char* strip = scratch_ + i / kVector * packed_strip_bytes(depth_, 1);
    return {strip + i % kVector * 4, 4, kVectorBytes};
  }

 private:
  MatrixRef a_;
  int64_t depth_;
  bool is_packed_, is_padded_;
  int64_t block_rows_;
  char* scratch_ = nullptr;
  Pairs in_place_ = {};
};

// C = alpha * op(A)·op(B) + added, where the packed B is not too large.
void multiply_block(const GemmArgs& args, const MatrixOut& added) {
  const int64_t pairs = num_pairs(args.k);
  const int64_t num_strips = (args.n + kStrip - 1) / kStrip;
  const int64_t strip_bytes = packed_strip_bytes(args.k, kStripVectors);
  char* b = scratch_bytes(/*slot=*/0, num_strips * strip_bytes);
  const auto pack = args.b.transpose == Transpose::yes ? pack_columns<kStripVectors> : pack_rows<kStripVectors>;
  pack(static_cast<const bf16*>(args.b.data), args.b.ld, args.k, args.n, b);

  LeftRows a(args);
  for (int64_t row = 0; row < args.m; row += a.block_rows()) {
    const int64_t rows = std::min(a.block_rows(), args.m - row);
    a.load(row, rows);
    for (int64_t strip = 0; strip < num_strips; ++strip) {
      const int64_t col = strip * kStrip;
      for (int64_t i = 0; i < rows; i += kTile) {
        multiply_tile({.a = a.tile(i),
                       .b = b + strip * strip_bytes,
                       .pairs = pairs,
                       .cols = std::min(kStrip, args.n - col),
                       .alpha = args.alpha,
                       .added = element_at(added, row + i, col),
                       .c = element_at(args.c, row + i, col)},
                      std::min(kTile, rows - i));
      }
    }
  }
}

bool is_one_block(const GemmArgs& args) {
  return args.k <= (args.c.dtype == DType::bf16 ? kLongestDepth : kBlockDepth);
}

// All terms of the sums of some columns, block by block.
void multiply_columns(const GemmArgs& args) {
  const MatrixOut before = args.beta == 0.0f ? MatrixOut{} : args.c;
  if (is_one_block(args)) return multiply_block(args, before);
  MatrixOut sums = args.c;
  if (sums.dtype != DType::f32) {
    sums = {.data = thread_scratch(/*slot=*/2, args.m * args.n), .dtype = DType::f32, .ld = args.n};
  }
  for (int64_t k = 0; k < args.k; k += kBlockDepth) {
    GemmArgs block = args;
    block.k = std::min(kBlockDepth, args.k - k);
    block.a.data = element_of(args.a, 0, k);
    block.b.data = element_of(args.b, k, 0);
    block.c = k + block.k == args.k ? args.c : sums;
    multiply_block(block, k == 0 ? before : sums);
  }
}

}  // namespace

void gemm_avx512_bf16(const GemmArgs& args) {
  const bool needs_scratch = args.c.dtype == DType::bf16 && !is_one_block(args);
  const int64_t block_rows = needs_scratch ? kBlockSums : args.m;
  for (int64_t col = 0; col < args.n; col += kBlockCols) {
    for (int64_t row = 0; row < args.m; row += block_rows) {
      multiply_columns(
          rectangle_of(args, row, std::min(block_rows, args.m - row), col, std::min(kBlockCols, args.n - col)));
    }
  }
}

}  // namespace trireme::cpu
