// Several products at once: how they are cut into rectangles that keep all threads busy to the end.
#include <algorithm>
#include <functional>
#include <queue>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/gemm_backend.h"

namespace trireme::cpu {

namespace {

// As in cut_gemm: what a piece is worth at least, where its edges lie, and the cost of packing an element.
constexpr double kSmallestPiece = 64.0 * 64 * 64;
constexpr int64_t kAlign = 64;
constexpr double kPackCost = 16.0;

int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

struct Piece {
  const GemmArgs* product;
  int64_t row, rows, col, cols;
  double cost;  // in multiplications
};

// With room for what lies around the multiplications, so that products without terms count too.
double cost_of(double rows, double cols, double depth) {
  return depth * (rows * cols + kPackCost * (rows + cols)) + rows * cols;
}

int64_t edge(int64_t size, int64_t num_pieces) {
  return num_pieces == 1 ? size : divide_up(divide_up(size, num_pieces), kAlign) * kAlign;
}

// Adds the pieces of a product, none of which has many more than `limit` multiplications.
void cut(const GemmArgs& args, double limit, std::vector<Piece>& pieces) {
  if (args.m == 0 || args.n == 0) return;
  const double work = static_cast<double>(args.m) * static_cast<double>(args.n) * static_cast<double>(args.k);
  const auto wanted = static_cast<int64_t>(std::max(1.0, work / std::max(limit, kSmallestPiece) + 0.999));
  int64_t best_rows = args.m;
  int64_t best_cols = args.n;
  double best_cost = 0;
  for (int64_t row_pieces = 1; row_pieces <= std::min(wanted, divide_up(args.m, kAlign)); ++row_pieces) {
    const int64_t col_pieces = std::min(divide_up(wanted, row_pieces), divide_up(args.n, kAlign));
    const int64_t rows = edge(args.m, row_pieces);
    const int64_t cols = edge(args.n, col_pieces);
    // A piece that stays too large counts as if it kept the others waiting.
    const double largest = static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(args.k);
    const double packing = static_cast<double>(divide_up(args.m, rows) * args.n + divide_up(args.n, cols) * args.m);
    const double cost = kPackCost * static_cast<double>(args.k) * packing + std::max(0.0, largest - limit);
    if (row_pieces == 1 || cost < best_cost) {
      best_cost = cost;
      best_rows = rows;
      best_cols = cols;
    }
  }
  for (int64_t row = 0; row < args.m; row += best_rows) {
    for (int64_t col = 0; col < args.n; col += best_cols) {
      const int64_t rows = std::min(best_rows, args.m - row);
      const int64_t cols = std::min(best_cols, args.n - col);
      const double cost = cost_of(static_cast<double>(rows), static_cast<double>(cols), static_cast<double>(args.k));
      pieces.push_back({&args, row, rows, col, cols, cost});
    }
  }
}

// When the last of so many threads is done, where each takes the next piece when it is free.
double time_to_finish(const std::vector<Piece>& pieces, int num_threads) {
  std::priority_queue<double, std::vector<double>, std::greater<>> busy_until(
      std::greater<>(), std::vector<double>(static_cast<size_t>(num_threads), 0.0));
  double end = 0;
  for (const Piece& piece : pieces) {
    const double done = busy_until.top() + piece.cost;
    busy_until.pop();
    busy_until.push(done);
    end = std::max(end, done);
  }
  return end;
}

// Large pieces first: the small ones fill what is left at the end.
std::vector<Piece> cut_all(std::span<const GemmArgs> products, int num_threads) {
  double total = 0;
  for (const GemmArgs& args : products) {
    total += static_cast<double>(args.m) * static_cast<double>(args.n) * static_cast<double>(args.k);
  }
  std::vector<Piece> best;
  double best_time = 0;
  for (const double per_thread : {1.0, 2.0, 3.0, 4.0, 6.0, 8.0}) {
    const double limit = total / (per_thread * num_threads);
    std::vector<Piece> pieces;
    for (const GemmArgs& args : products) cut(args, limit, pieces);
    std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.cost > b.cost; });
    const double time = time_to_finish(pieces, num_threads);
    if (per_thread == 1.0 || time < best_time) {
      best_time = time;
      best = std::move(pieces);
    }
    if (limit < kSmallestPiece) break;  // more of them would not be smaller
  }
  return best;
}

}  // namespace

void gemm_all(ThreadPool& pool, std::span<const GemmArgs> products) {
  for (const GemmArgs& args : products) check_gemm(args);
  if (pool.size() == 1) {
    for (const GemmArgs& args : products) multiply_checked(args);
    return;
  }
  const std::vector<Piece> pieces = cut_all(products, pool.size());
  pool.run(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    multiply_checked(rectangle_of(*piece.product, piece.row, piece.rows, piece.col, piece.cols));
  });
}

}  // namespace trireme::cpu
