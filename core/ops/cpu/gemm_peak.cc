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
  constexpr double kBudgetSeconds = 0.06;
  constexpr double kFlops = 2.0 * kSize * kSize * kSize;

  const Clock::time_point start = Clock::now();
  const auto seconds_since = [](Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
  };
  // Zeros multiply as fast as other numbers.
  const auto num_bytes = static_cast<size_t>(kSize * kSize * dtype_bytes(dtype));
  const std::vector<char> a(num_bytes);
  const std::vector<char> b(num_bytes);
  std::vector<std::vector<float>> results(static_cast<size_t>(pool.size()), std::vector<float>(kSize * kSize));

  double best_seconds = 0;
  for (int round = 0; round < 2 || seconds_since(start) < kBudgetSeconds; ++round) {
    const Clock::time_point begin = Clock::now();
    pool.run(pool.size(), [&](int64_t i) {
      gemm_serial({.m = kSize,
                   .n = kSize,
                   .k = kSize,
                   .a = {.data = a.data(), .dtype = dtype, .ld = kSize},
                   .b = {.data = b.data(), .dtype = dtype, .ld = kSize},
                   .c = {.data = results[static_cast<size_t>(i)].data(), .dtype = DType::f32, .ld = kSize}});
    });
    const double seconds = seconds_since(begin);
    if (round > 0 && (best_seconds == 0 || seconds < best_seconds)) best_seconds = seconds;  // round 0 warms up
  }
  return kFlops * pool.size() / best_seconds * 1e-9;
}

}  // namespace trireme::cpu
