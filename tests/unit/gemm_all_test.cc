// Several products in one call. The numbers are small integers, whose sums fp32 holds exactly, so that every way to cut the
// products must give what plain loops over integers give.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/error.h"
#include "core/ops/cpu/gemm.h"
#include "core/random/philox.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kPad = 3;  // elements behind each row, which must stay as they are
constexpr float kUntouched = 64;

struct Matrix {
  Matrix(int64_t rows, int64_t cols, DType of, uint64_t key) : ld(cols + kPad), dtype(of) {
    for (int64_t i = 0; i < rows * ld; ++i) {
      const auto draw = static_cast<float>(philox4x32(key, static_cast<uint64_t>(i)).x[0] % 5);
      values.push_back(i % ld < cols ? draw - 2 : kUntouched);
    }
    for (const float value : values) halves.emplace_back(value);
  }
  const void* data() const { return dtype == DType::f32 ? static_cast<const void*>(values.data()) : halves.data(); }
  void* data() { return dtype == DType::f32 ? static_cast<void*>(values.data()) : halves.data(); }
  float at(int64_t i, int64_t j) const {
    const auto index = static_cast<size_t>(i * ld + j);
    return dtype == DType::f32 ? values[index] : static_cast<float>(halves[index]);
  }

  int64_t ld;
  DType dtype;
  std::vector<float> values;
  std::vector<bf16> halves;
};

struct Product {
  int64_t m, n, k;
  Transpose ta = Transpose::no;
  Transpose tb = Transpose::no;
  DType in = DType::f32;
  DType out = DType::f32;
  float beta = 0;
};

struct Problem {
  explicit Problem(const Product& product)
      : p(product),
        a(p.ta == Transpose::no ? p.m : p.k, p.ta == Transpose::no ? p.k : p.m, p.in, 1),
        b(p.tb == Transpose::no ? p.k : p.n, p.tb == Transpose::no ? p.n : p.k, p.in, 2),
        c(p.m, p.n, p.out, 3),
        before(c) {}
  GemmArgs args() {
    return {.m = p.m,
            .n = p.n,
            .k = p.k,
            .a = {.data = a.data(), .dtype = p.in, .ld = a.ld, .transpose = p.ta},
            .b = {.data = b.data(), .dtype = p.in, .ld = b.ld, .transpose = p.tb},
            .c = {.data = c.data(), .dtype = p.out, .ld = c.ld},
            .beta = p.beta};
  }
  void expect_right() const {
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < c.ld; ++j) {
        float want = kUntouched;
        if (j < p.n) {
          int64_t sum = p.beta == 0 ? 0 : static_cast<int64_t>(before.at(i, j));
          for (int64_t k = 0; k < p.k; ++k) {
            const float x = p.ta == Transpose::no ? a.at(i, k) : a.at(k, i);
            const float y = p.tb == Transpose::no ? b.at(k, j) : b.at(j, k);
            sum += static_cast<int64_t>(x) * static_cast<int64_t>(y);
          }
          want = p.out == DType::f32 ? static_cast<float>(sum) : static_cast<float>(bf16(static_cast<float>(sum)));
        }
        ASSERT_EQ(c.at(i, j), want) << p.m << "x" << p.n << "x" << p.k << " at " << i << ", " << j;
      }
    }
  }

  Product p;
  Matrix a, b, c, before;
};

void expect_all_right(const std::vector<Product>& products) {
  for (const int num_threads : {1, 3, 8}) {
    SCOPED_TRACE(std::to_string(num_threads) + " threads");
    ThreadPool pool(num_threads);
    std::vector<Problem> problems(products.begin(), products.end());
    std::vector<GemmArgs> args;
    for (Problem& problem : problems) args.push_back(problem.args());
    gemm_all(pool, args);
    for (const Problem& problem : problems) {
      problem.expect_right();
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(GemmAll, ManySizesAtOnce) {
  constexpr auto kNo = Transpose::no;
  constexpr auto kYes = Transpose::yes;
  for (const DType in : {DType::f32, DType::bf16}) {
    for (const DType out : {DType::f32, DType::bf16}) {
      for (const float beta : {0.0f, 1.0f}) {
        expect_all_right({{300, 200, 100, kNo, kYes, in, out, beta},
                          {1, 200, 100, kNo, kYes, in, out, beta},
                          {0, 200, 100, kNo, kYes, in, out, beta},
                          {130, 70, 65, kNo, kNo, in, out, beta},
                          {330, 129, 100, kYes, kNo, in, out, beta},
                          {64, 64, 0, kYes, kNo, in, out, beta},
                          {65, 127, 7, kYes, kYes, in, out, beta}});
      }
    }
  }
}

TEST(GemmAll, OneLargeBesideSmallOnes) {
  expect_all_right({{3, 64, 64}, {700, 130, 90}, {2, 64, 64}, {1, 1, 1}});
  expect_all_right({{513, 257, 64}});
  expect_all_right(std::vector<Product>(40, Product{.m = 5, .n = 33, .k = 17}));
}

TEST(GemmAll, NothingToDo) {
  expect_all_right({});
  expect_all_right({{0, 5, 5}, {5, 0, 5}, {0, 0, 0}});
  expect_all_right({{4, 4, 0}});
}

TEST(GemmAll, RefusesWrongArguments) {
  ThreadPool pool(2);
  Problem right({.m = 4, .n = 4, .k = 4});
  Problem wrong({.m = 4, .n = 4, .k = 4});
  std::vector<GemmArgs> args = {right.args(), wrong.args()};
  args[1].b.ld = 3;
  EXPECT_THROW(gemm_all(pool, args), BugError);
}

}  // namespace
}  // namespace trireme::cpu
