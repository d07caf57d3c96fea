#include "core/device/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>

namespace trireme {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      pool.run(n, [&](int64_t i) { ++seen[static_cast<size_t>(i)]; });
      for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, RangesCoverWithoutOverlap) {
  ThreadPool pool(3);
  std::vector<int> values(1003, 0);
  pool.for_ranges(1003, 64, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(begin % 64, 0);
    EXPECT_LE(end - begin, 64);
    for (int64_t i = begin; i < end; ++i) ++values[static_cast<size_t>(i)];
  });
  EXPECT_EQ(values, std::vector<int>(1003, 1));
}

TEST(ThreadPool, NestedCallsRunInline) {
  ThreadPool pool(2);
  std::atomic<int> count = 0;
  pool.run(4, [&](int64_t) { pool.run(3, [&](int64_t) { ++count; }); });
  EXPECT_EQ(count, 12);
}

TEST(ThreadPool, ThrowsTheFirstExceptionAndGoesOn) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.run(100,
                        [](int64_t i) {
                          if (i == 37) throw std::runtime_error("37");
                        }),
               std::runtime_error);
  std::atomic<int> count = 0;
  pool.run(100, [&](int64_t) { ++count; });
  EXPECT_EQ(count, 100);
}

}  // namespace
}  // namespace trireme
