#include "core/ops/cpu/router_rows.h"

#include <cmath>

#include "core/error.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

TRIREME_MULTIVERSION
float max_of(const float* x, int64_t n) {
  float max = x[0];
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = max < x[i] ? x[i] : max;
  return max;
}

TRIREME_MULTIVERSION
float exponentials(const float* x, float shift, float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    y[i] = math::exp_of_nonpositive(x[i] - shift);
    sum += y[i];
  }
  return sum;
}

TRIREME_MULTIVERSION
float sum_of_row(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

LogSumExp log_sum_exp(const float* x, int64_t n, float* room) {
  const float max = max_of(x, n);
  return {max, std::log(exponentials(x, max, room, n))};
}

void check_chosen(const int32_t* chosen, int64_t slots, int64_t choices) {
  for (int64_t k = 0; k < slots; ++k) TRIREME_CHECK(chosen[k] < choices, "a slot has chosen what there isn't");
}

}  // namespace trireme::cpu
