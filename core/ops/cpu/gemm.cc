#include "core/ops/cpu/gemm.h"

#include <algorithm>

#include "core/device/thread_pool.h"
#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"

namespace trireme::cpu {

namespace {

// What an empty sum leaves: C itself, or zeros.
void fill_empty_sum(const GemmArgs& args) {
  if (args.beta == 1.0f) return;
  const int64_t row_bytes = args.n * dtype_bytes(args.c.dtype);
  for (int64_t i = 0; i < args.m; ++i) {
    char* row = static_cast<char*>(args.c.data) + i * args.c.ld * dtype_bytes(args.c.dtype);
    std::fill(row, row + row_bytes, char{0});
  }
}

int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

}  // namespace

void check_gemm(const GemmArgs& args) {
  TRIREME_CHECK(args.m >= 0 && args.n >= 0 && args.k >= 0);
  TRIREME_CHECK(args.a.dtype == DType::f32 || args.a.dtype == DType::bf16, "A is neither f32 nor bf16");
  TRIREME_CHECK(args.a.dtype == args.b.dtype, "A and B differ in type");
  TRIREME_CHECK(args.c.dtype == DType::f32 || args.c.dtype == DType::bf16, "C is neither f32 nor bf16");
  TRIREME_CHECK(args.beta == 0.0f || args.beta == 1.0f);
  const int64_t a_cols = args.a.transpose == Transpose::no ? args.k : args.m;
  const int64_t b_cols = args.b.transpose == Transpose::no ? args.n : args.k;
  TRIREME_CHECK(args.a.ld >= a_cols, "leading dimension of A");
  TRIREME_CHECK(args.b.ld >= b_cols, "leading dimension of B");
  TRIREME_CHECK(args.c.ld >= args.n, "leading dimension of C");
}

void multiply_checked(const GemmArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return fill_empty_sum(args);
  gemm_serial_with(choose_gemm_backend(cpu_features(), args), args);
}

GemmArgs rectangle_of(const GemmArgs& args, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  GemmArgs piece = args;
  piece.m = rows;
  piece.n = cols;
  piece.a.data = element_of(args.a, row, 0);
  piece.b.data = element_of(args.b, 0, col);
  piece.c.data = static_cast<char*>(args.c.data) + (row * args.c.ld + col) * dtype_bytes(args.c.dtype);
  return piece;
}

const void* element_of(const MatrixRef& x, int64_t row, int64_t col) {
  const int64_t offset = x.transpose == Transpose::no ? row * x.ld + col : col * x.ld + row;
  return static_cast<const char*>(x.data) + offset * dtype_bytes(x.dtype);
}

GemmCut cut_gemm(int64_t m, int64_t n, int64_t k, int num_threads) {
  // A piece below this many multiplications costs more to hand out than it saves.
  constexpr double kSmallestPiece = 64.0 * 64 * 64;
  // Piece edges are multiples of this many elements, which the libraries' register tiles divide or fit well.
  constexpr int64_t kAlign = 64;
  // Time to copy one element into a library's packed panels, in multiplications. Every row of pieces packs B again,
  // every column of pieces packs A.
  constexpr double kPackCost = 16.0;

  GemmCut best{.rows = std::max<int64_t>(m, 1), .cols = std::max<int64_t>(n, 1)};
  const double total = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const auto max_pieces = static_cast<int64_t>(std::min(total / kSmallestPiece, 4.0 * num_threads));
  if (num_threads == 1 || max_pieces < 2) return best;

  double best_cost = 0;
  for (int64_t row_pieces = 1; row_pieces <= std::min(max_pieces, divide_up(m, kAlign)); ++row_pieces) {
    for (int64_t col_pieces = 1; row_pieces * col_pieces <= max_pieces && col_pieces <= divide_up(n, kAlign);
         ++col_pieces) {
      GemmCut cut;
      cut.rows = row_pieces == 1 ? m : divide_up(divide_up(m, row_pieces), kAlign) * kAlign;
      cut.cols = col_pieces == 1 ? n : divide_up(divide_up(n, col_pieces), kAlign) * kAlign;
      cut.num_row_pieces = divide_up(m, cut.rows);
      cut.num_col_pieces = divide_up(n, cut.cols);
      const double piece_cost =
          static_cast<double>(k) * (static_cast<double>(cut.rows) * static_cast<double>(cut.cols) +
                                    kPackCost * static_cast<double>(cut.rows + cut.cols));
      const double cost =
          piece_cost * static_cast<double>(divide_up(cut.num_row_pieces * cut.num_col_pieces, num_threads));
      if (best_cost == 0 || cost < best_cost) {
        best_cost = cost;
        best = cut;
      }
    }
  }
  return best;
}

void gemm_serial(const GemmArgs& args) {
  check_gemm(args);
  multiply_checked(args);
}

void gemm(ThreadPool& pool, const GemmArgs& args) {
  check_gemm(args);
  const GemmCut cut = cut_gemm(args.m, args.n, args.k, pool.size());
  const int64_t num_pieces = cut.num_row_pieces * cut.num_col_pieces;
  if (num_pieces <= 1) return multiply_checked(args);
  pool.run(num_pieces, [&](int64_t i) {
    const int64_t row = i / cut.num_col_pieces * cut.rows;
    const int64_t col = i % cut.num_col_pieces * cut.cols;
    multiply_checked(rectangle_of(args, row, std::min(cut.rows, args.m - row), col, std::min(cut.cols, args.n - col)));
  });
}

}  // namespace trireme::cpu
