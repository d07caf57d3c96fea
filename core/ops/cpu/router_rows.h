// What the CPU kernels of routers do with one token's row of choices.
#pragma once

#include <cstdint>

namespace trireme::cpu {

struct LogSumExp {
  float max;
  float log_sum;  // of e^(x − max)

  float value() const { return max + log_sum; }
};

float max_of(const float* x, int64_t n);
float sum_of_row(const float* x, int64_t n);
// y = e^(x − shift), for a shift that no x exceeds; returns the sum.
float exponentials(const float* x, float shift, float* y, int64_t n);
// `room` holds a row of exponentials afterwards.
LogSumExp log_sum_exp(const float* x, int64_t n, float* room);
// Throws BugError where a slot has chosen what lies behind the last choice.
void check_chosen(const int32_t* chosen, int64_t slots, int64_t choices);

}  // namespace trireme::cpu
