// Products of any element types by fp32 panels: blocks of A, B and C are converted, multiplied by an fp32 library,
// and, for a bf16 C, rounded at the end. The blocks fit the second-level cache; converting costs about 3 percent.
#include <immintrin.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kBlockRows = 256;
constexpr int64_t kBlockCols = 512;
constexpr int64_t kBlockDepth = 512;

void widen_row(const bf16* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    const __m256i words = _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
    _mm256_storeu_ps(to + i, _mm256_castsi256_ps(words));
  }
  for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

// The block [rows, cols] of op(X) at (row, col) as fp32, in the orientation of X: itself where X is fp32 already.
MatrixRef widen_block(const MatrixRef& x, int64_t row, int64_t rows, int64_t col, int64_t cols, int slot) {
  MatrixRef block = x;
  block.data = element_of(x, row, col);
  if (x.dtype == DType::f32) return block;
  const int64_t memory_rows = x.transpose == Transpose::no ? rows : cols;
  const int64_t memory_cols = x.transpose == Transpose::no ? cols : rows;
  const auto* from = static_cast<const bf16*>(block.data);
  float* to = thread_scratch(slot, kBlockDepth * std::max(kBlockRows, kBlockCols));
  for (int64_t i = 0; i < memory_rows; ++i) widen_row(from + i * x.ld, to + i * memory_cols, memory_cols);
  return {.data = to, .dtype = DType::f32, .ld = memory_cols, .transpose = x.transpose};
}

// The product of one block of rows and columns, over the whole depth, summed in fp32.
void sum_block(const GemmArgs& args, int64_t row, int64_t col, GemmArgs block) {
  for (int64_t depth = 0; depth < args.k; depth += kBlockDepth) {
    block.k = std::min(kBlockDepth, args.k - depth);
    block.a = widen_block(args.a, row, block.m, depth, block.k, /*slot=*/1);
    block.b = widen_block(args.b, depth, block.k, col, block.n, /*slot=*/2);
    gemm_serial_with(choose_gemm_backend(cpu_features(), block), block);
    block.beta = 1.0f;
  }
}

void multiply_block(const GemmArgs& args, int64_t row, int64_t col) {
  GemmArgs block{.m = std::min(kBlockRows, args.m - row),
                 .n = std::min(kBlockCols, args.n - col),
                 .alpha = args.alpha,
                 .beta = args.beta};
  if (args.c.dtype == DType::f32) {
    block.c = {.data = static_cast<float*>(args.c.data) + row * args.c.ld + col, .dtype = DType::f32, .ld = args.c.ld};
    sum_block(args, row, col, block);
    return;
  }
  float* sums = thread_scratch(/*slot=*/3, kBlockRows * kBlockCols);
  block.c = {.data = sums, .dtype = DType::f32, .ld = block.n};
  bf16* rounded = static_cast<bf16*>(args.c.data) + row * args.c.ld + col;
  if (args.beta != 0.0f) {
    for (int64_t i = 0; i < block.m; ++i) widen_row(rounded + i * args.c.ld, sums + i * block.n, block.n);
  }
  sum_block(args, row, col, block);
  for (int64_t i = 0; i < block.m; ++i) {
    for (int64_t j = 0; j < block.n; ++j) rounded[i * args.c.ld + j] = bf16(sums[i * block.n + j]);
  }
}

}  // namespace

void gemm_widen(const GemmArgs& args) {
  for (int64_t col = 0; col < args.n; col += kBlockCols) {
    for (int64_t row = 0; row < args.m; row += kBlockRows) multiply_block(args, row, col);
  }
}

}  // namespace trireme::cpu
