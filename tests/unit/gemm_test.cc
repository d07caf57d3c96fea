#include "core/ops/cpu/gemm.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <limits>
#include <thread>
#include <vector>

#include "core/device/cpu_features.h"
#include "core/device/thread_pool.h"
#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"
#include "core/ops/cpu/gemm_peak.h"
#include "tests/unit/gemm_problem.h"

namespace trireme::cpu {
namespace {

std::vector<Case> all_kinds(int64_t m, int64_t n, int64_t k, int64_t pad) {
  std::vector<Case> cases;
  for (const Transpose ta : {Transpose::no, Transpose::yes}) {
    for (const Transpose tb : {Transpose::no, Transpose::yes}) {
      for (const DType in : {DType::f32, DType::bf16}) {
        for (const DType out : {DType::f32, DType::bf16}) {
          for (const float beta : {0.0f, 1.0f}) {
            cases.push_back(
                {.m = m, .n = n, .k = k, .ta = ta, .tb = tb, .in = in, .out = out, .beta = beta, .pad = pad});
          }
        }
      }
    }
  }
  return cases;
}

const std::vector<std::vector<int64_t>> kShapes = {{1, 1, 1},     {1, 65, 17},  {17, 1, 129},  {3, 3, 3},
                                                   {65, 129, 17}, {64, 64, 64}, {17, 65, 300}, {129, 17, 65},
                                                   {130, 200, 1}, {270, 530, 9}};

TEST(Gemm, MatchesFp64OnAllKindsShapesAndPools) {
  ThreadPool one(1), two(2), three(3);
  for (const auto& shape : kShapes) {
    for (const int64_t pad : {0, 5}) {
      for (const Case& what : all_kinds(shape[0], shape[1], shape[2], pad)) {
        const Problem original(what);
        const Problem::Sums sums = original.sums();
        for (ThreadPool* pool : {&one, &two, &three}) {
          Problem problem = original;
          gemm(*pool, problem.args());
          problem.expect_right(sums, original.c);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

bool is_for_bf16(GemmBackend backend) {
  return backend == GemmBackend::avx512_bf16 || backend == GemmBackend::onednn_matmul;
}

// Every backend that this CPU can run, not only the ones that the rule picks here.
std::vector<GemmBackend> backends_here() {
  std::vector<GemmBackend> backends = {GemmBackend::onednn_sgemm, GemmBackend::widen};
  if (!openblas_config().empty()) backends.push_back(GemmBackend::openblas);
  if (cpu_features().avx512) backends.push_back(GemmBackend::tile);
  if (cpu_features().avx512_bf16) backends.push_back(GemmBackend::avx512_bf16);
  if (cpu_features().has_fast_bf16()) backends.push_back(GemmBackend::onednn_matmul);
  return backends;
}

TEST(Gemm, EveryBackendMatchesFp64) {
  for (const GemmBackend backend : backends_here()) {
    const bool needs_bf16 = is_for_bf16(backend);
    const bool needs_f32 = !needs_bf16 && backend != GemmBackend::widen;
    for (const auto& shape : kShapes) {
      for (const Case& what : all_kinds(shape[0], shape[1], shape[2], 3)) {
        const bool is_f32 = what.in == DType::f32 && what.out == DType::f32;
        if (needs_f32 && !is_f32) continue;
        if (needs_bf16 && what.in != DType::bf16) continue;
        Problem problem(what);
        const Matrix before = problem.c;
        gemm_serial_with(backend, problem.args());
        SCOPED_TRACE(gemm_backend_name(backend));
        problem.expect_right(before);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// More than one block of every dimension, and of each alone, in our own kernel for bf16.
TEST(Gemm, ManyBlocksMatchFp64) {
  for (const auto& shape : std::vector<std::vector<int64_t>>{{1030, 9, 2101}, {9, 1030, 1040}, {1700, 50, 60}}) {
    for (Case what : all_kinds(shape[0], shape[1], shape[2], 1)) {
      if (what.in != DType::bf16) continue;
      Problem problem(what);
      const Matrix before = problem.c;
      gemm_serial(problem.args());
      problem.expect_right(before);
      if (HasFatalFailure()) return;
    }
  }
}

// Packed operands of an earlier product lie in the memory that the next one packs into.
TEST(Gemm, NaNsOfAnEarlierProductAreGone) {
  for (const Transpose ta : {Transpose::no, Transpose::yes}) {
    Problem broken({.m = 40, .n = 50, .k = 64, .ta = Transpose::yes, .in = DType::bf16});
    broken.a.fill(std::numeric_limits<float>::quiet_NaN());
    broken.b.fill(std::numeric_limits<float>::quiet_NaN());
    gemm_serial(broken.args());
    Problem problem({.m = 37, .n = 43, .k = 33, .ta = ta, .in = DType::bf16});
    const Matrix before = problem.c;
    gemm_serial(problem.args());
    problem.expect_right(before);
  }
}

// More than one block of every dimension in the conversion to fp32, and long sums that are cut.
TEST(Gemm, LongSumsMatchFp64) {
  ThreadPool pool(2);
  for (const DType in : {DType::f32, DType::bf16}) {
    for (const DType out : {DType::f32, DType::bf16}) {
      const Case what{.m = 70, .n = 90, .k = 1500, .ta = Transpose::yes, .in = in, .out = out, .beta = 1.0f, .pad = 1};
      Problem problem(what);
      const Matrix before = problem.c;
      gemm(pool, problem.args());
      problem.expect_right(before);
      Problem widened(what);
      gemm_serial_with(GemmBackend::widen, widened.args());
      widened.expect_right(before);
    }
  }
}

TEST(Gemm, ScalesByAlpha) {
  ThreadPool pool(2);
  for (Case what : all_kinds(33, 65, 40, 2)) {
    what.alpha = -0.37f;
    Problem problem(what);
    const Matrix before = problem.c;
    gemm(pool, problem.args());
    problem.expect_right(before);
  }
}

TEST(Gemm, EmptySumsAreZero) {
  ThreadPool pool(2);
  for (const Case& what : all_kinds(5, 7, 0, 2)) {
    Problem problem(what);
    const Matrix before = problem.c;
    gemm(pool, problem.args());
    problem.expect_right(before);
  }
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{0, 5}, {5, 0}, {0, 0}}) {
    Problem problem({.m = m, .n = n, .k = 3});
    gemm(pool, problem.args());
  }
}

TEST(Gemm, RepeatsBitForBit) {
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const DType in : {DType::f32, DType::bf16}) {
      const Case what{.m = 300, .n = 330, .k = 700, .ta = Transpose::yes, .in = in, .beta = 1.0f, .pad = 1};
      Problem first(what);
      gemm(pool, first.args());
      for (int repeat = 0; repeat < 5; ++repeat) {
        Problem again(what);
        gemm(pool, again.args());
        ASSERT_TRUE(first.c.same_bytes(again.c)) << threads << " threads " << dtype_name(in);
      }
    }
  }
}

// A thread that has never multiplied computes what a seasoned one does, and many may do so at once.
TEST(Gemm, SerialCallsFromManyThreadsAgree) {
  for (const DType in : {DType::f32, DType::bf16}) {
    const Case what{.m = 64, .n = 80, .k = 64, .tb = Transpose::yes, .in = in, .pad = 128};
    Problem expected(what);
    gemm_serial(expected.args());
    std::vector<Problem> problems(4, Problem(what));
    std::vector<std::thread> threads;
    for (Problem& problem : problems) {
      threads.emplace_back([&problem] {
        for (int i = 0; i < 20; ++i) gemm_serial(problem.args());
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Problem& problem : problems) EXPECT_TRUE(problem.c.same_bytes(expected.c));
  }
}

// Products so small that the threads meet in whatever a library keeps for them. OpenBLAS's serial build fails it.
TEST(Gemm, EveryBackendServesManyThreads) {
  for (const GemmBackend backend : backends_here()) {
    const DType in = is_for_bf16(backend) ? DType::bf16 : DType::f32;
    const Case what{.m = 40, .n = 48, .k = 56, .ta = Transpose::yes, .in = in};
    Problem expected(what);
    gemm_serial_with(backend, expected.args());
    std::vector<Problem> problems(3, Problem(what));
    std::atomic<int> num_wrong = 0;
    std::vector<std::thread> threads;
    for (Problem& problem : problems) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10000; ++i) {
          gemm_serial_with(backend, problem.args());
          if (!problem.c.same_bytes(expected.c)) ++num_wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(num_wrong, 0) << gemm_backend_name(backend);
  }
}

int64_t count_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST(Gemm, StartsNoThreads) {
  const int64_t before = count_threads();
  ThreadPool pool(2);
  for (const DType in : {DType::f32, DType::bf16}) {
    Problem problem({.m = 300, .n = 600, .k = 512, .in = in});
    gemm(pool, problem.args());
    EXPECT_EQ(count_threads(), before + 1);
    gemm_serial(problem.args());
    for (const GemmBackend backend : {GemmBackend::openblas, GemmBackend::onednn_sgemm, GemmBackend::widen}) {
      if (in == DType::bf16 && backend != GemmBackend::widen) continue;
      if (backend == GemmBackend::openblas && openblas_config().empty()) continue;
      gemm_serial_with(backend, problem.args());
    }
    EXPECT_EQ(count_threads(), before + 1);
  }
}

TEST(Gemm, RefusesWrongArguments) {
  Problem problem({.m = 4, .n = 5, .k = 6});
  const GemmArgs right = problem.args();
  const auto expect_bug = [](GemmArgs wrong) { EXPECT_THROW(gemm_serial(wrong), BugError); };
  GemmArgs wrong = right;
  wrong.a.ld = 5;
  expect_bug(wrong);
  wrong = right;
  wrong.b.transpose = Transpose::yes;  // ld 5 is too small for a row of k = 6
  expect_bug(wrong);
  wrong = right;
  wrong.c.ld = 4;
  expect_bug(wrong);
  wrong = right;
  wrong.b.dtype = DType::bf16;
  expect_bug(wrong);
  wrong = right;
  wrong.c.dtype = DType::i32;
  expect_bug(wrong);
  wrong = right;
  wrong.beta = 0.5f;
  expect_bug(wrong);
}

// The pieces of a cut cover C, each at least once and none empty, and give every thread work when there is enough.
TEST(GemmCutTest, CoversAndFeedsAllThreads) {
  const std::vector<std::vector<int64_t>> shapes = {
      {1, 1, 1},        {1024, 768, 2304}, {2304, 768, 1024}, {50257, 768, 256}, {384, 256, 4096},
      {4096, 384, 640}, {1, 50257, 768},   {64, 64, 64},      {65, 70000, 3},    {129, 129, 100000}};
  for (const auto& shape : shapes) {
    for (const int threads : {1, 2, 3, 4, 7, 64}) {
      const GemmCut cut = cut_gemm(shape[0], shape[1], shape[2], threads);
      ASSERT_GE(cut.rows * cut.num_row_pieces, shape[0]);
      ASSERT_GE(cut.cols * cut.num_col_pieces, shape[1]);
      ASSERT_LT(cut.rows * (cut.num_row_pieces - 1), shape[0]);
      ASSERT_LT(cut.cols * (cut.num_col_pieces - 1), shape[1]);
      const int64_t pieces = cut.num_row_pieces * cut.num_col_pieces;
      if (threads == 1) {
        ASSERT_EQ(pieces, 1);
      }
      // The busiest thread has at most a third more than its share of a training shape.
      if (threads <= 4 && shape[0] >= 384 && shape[1] >= 256) {
        ASSERT_GE(pieces, threads);
        const auto rounds = static_cast<double>((pieces + threads - 1) / threads);
        EXPECT_LE(rounds * static_cast<double>(cut.rows * cut.cols) * threads,
                  1.34 * static_cast<double>(shape[0] * shape[1]))
            << shape[0] << "x" << shape[1] << " on " << threads;
      }
    }
  }
}

TEST(GemmBackendTest, FollowsTheFeatures) {
  const CpuFeatures zen3{.avx2 = true};
  const CpuFeatures ice_lake{.avx2 = true, .avx512 = true};
  const CpuFeatures zen4{.avx2 = true, .avx512 = true, .avx512_bf16 = true};
  const CpuFeatures sapphire_rapids{.avx2 = true, .avx512 = true, .avx512_bf16 = true, .amx_bf16 = true};
  const auto chosen = [](const CpuFeatures& features, DType in, DType out, int64_t m) {
    Problem problem({.m = m, .n = 2, .k = 2, .in = in, .out = out});
    return choose_gemm_backend(features, problem.args());
  };
  const GemmBackend without_avx512 = openblas_config().empty() ? GemmBackend::onednn_sgemm : GemmBackend::openblas;
  EXPECT_EQ(chosen(zen3, DType::f32, DType::f32, 300), without_avx512);
  EXPECT_EQ(chosen(zen3, DType::f32, DType::f32, 2), without_avx512);
  EXPECT_EQ(chosen(zen3, DType::bf16, DType::f32, 300), GemmBackend::widen);
  EXPECT_EQ(chosen(ice_lake, DType::f32, DType::f32, 300), GemmBackend::onednn_sgemm);
  EXPECT_EQ(chosen(ice_lake, DType::bf16, DType::bf16, 300), GemmBackend::widen);
  EXPECT_EQ(chosen(zen4, DType::f32, DType::f32, 300), GemmBackend::onednn_sgemm);
  EXPECT_EQ(chosen(zen4, DType::f32, DType::f32, 256), GemmBackend::tile);
  EXPECT_EQ(chosen(zen4, DType::bf16, DType::f32, 300), GemmBackend::avx512_bf16);
  EXPECT_EQ(chosen(zen4, DType::bf16, DType::bf16, 300), GemmBackend::avx512_bf16);
  EXPECT_EQ(chosen(zen4, DType::f32, DType::bf16, 300), GemmBackend::widen);
  EXPECT_EQ(chosen(sapphire_rapids, DType::f32, DType::f32, 300), GemmBackend::onednn_sgemm);
  EXPECT_EQ(chosen(sapphire_rapids, DType::bf16, DType::f32, 300), GemmBackend::onednn_matmul);
  EXPECT_FALSE(ice_lake.has_fast_bf16());
  EXPECT_TRUE(zen4.has_fast_bf16());
}

TEST(GemmPeak, IsAPlausibleRate) {
  ThreadPool pool(1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double gflops = measure_peak_gflops(pool, dtype);
    EXPECT_GT(gflops, 0.01);
    EXPECT_LT(gflops, 1e5);
  }
}

}  // namespace
}  // namespace trireme::cpu
