#include "core/ops/cpu/gemm_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/ops/cpu/gemm.h"

namespace trireme::cpu {

double measure_peak_gflops(ThreadPool& pool, DType dtype) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSize = 512;
  constexpr double kBudgetSeconds = 0.04;
  constexpr double kFlops = 2.0 * kSize * kSize * kSize;

  const auto seconds_since = [](Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
  };
  // Zeros multiply as fast as other numbers.
  const auto num_bytes = static_cast<size_t>(kSize * kSize * dtype_bytes(dtype));
  const std::vector<char> a(num_bytes);
  const std::vector<char> b(num_bytes);
  std::vector<std::vector<float>> results(static_cast<size_t>(pool.size()), std::vector<float>(kSize * kSize));

  const auto multiply_once = [&] {
    pool.run(pool.size(), [&](int64_t i) {
      gemm_serial({.m = kSize,
                   .n = kSize,
                   .k = kSize,
                   .a = {.data = a.data(), .dtype = dtype, .ld = kSize},
                   .b = {.data = b.data(), .dtype = dtype, .ld = kSize},
                   .c = {.data = results[static_cast<size_t>(i)].data(), .dtype = DType::f32, .ld = kSize}});
    });
  };
  multiply_once();  // the first call of a library generates its code
  double best_seconds = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    multiply_once();
    const double seconds = seconds_since(begin);
    if (best_seconds == 0 || seconds < best_seconds) best_seconds = seconds;
  } while (seconds_since(start) < kBudgetSeconds);
  return kFlops * pool.size() / best_seconds * 1e-9;
}

}  // namespace trireme::cpu
