// Several products in one call. The numbers are small integers, whose sums fp32 holds exactly, so that every way to cut the
// products must give what plain loops over integers give.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/error.h"
#include "tests/unit/gemm_problem.h"

namespace trireme::cpu {
namespace {

void expect_all_right(std::vector<Case> cases) {
  for (Case& c : cases) c.pad = 3;
  for (const int num_threads : {1, 3, 8}) {
    SCOPED_TRACE(std::to_string(num_threads) + " threads");
    ThreadPool pool(num_threads);
    std::vector<Problem> problems;
    for (const Case& c : cases) problems.emplace_back(c, Numbers::integers);
    const std::vector<Problem> before = problems;
    std::vector<GemmArgs> args;
    for (Problem& problem : problems) args.push_back(problem.args());
    gemm_all(pool, args);
    for (size_t i = 0; i < problems.size(); ++i) {
      problems[i].expect_right(before[i].c);
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
        expect_all_right({{300, 200, 100, kNo, kYes, in, out, 1.0f, beta},
                          {1, 200, 100, kNo, kYes, in, out, 1.0f, beta},
                          {0, 200, 100, kNo, kYes, in, out, 1.0f, beta},
                          {130, 70, 65, kNo, kNo, in, out, 1.0f, beta},
                          {330, 129, 100, kYes, kNo, in, out, 1.0f, beta},
                          {64, 64, 0, kYes, kNo, in, out, 1.0f, beta},
                          {65, 127, 7, kYes, kYes, in, out, 1.0f, beta}});
      }
    }
  }
}

TEST(GemmAll, OneLargeBesideSmallOnes) {
  expect_all_right({{3, 64, 64}, {700, 130, 90}, {2, 64, 64}, {1, 1, 1}});
  expect_all_right({{513, 257, 64}});
  expect_all_right(std::vector<Case>(40, Case{.m = 5, .n = 33, .k = 17}));
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
