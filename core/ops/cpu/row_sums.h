// Sums of whole rows in fp32, a stretch of columns at a time, for rows of f32 or bf16.
#pragma once

#include <cstdint>

#include "core/tensor/dtype.h"

namespace trireme::cpu {

inline constexpr int64_t kSumColumns = 512;  // of a row, whose sums stay in the L1 cache

// y = x, n elements.
void widen_row(const float* x, float* y, int64_t n);
void widen_row(const bf16* x, float* y, int64_t n);
// The same, rounded where y is bf16.
void narrow_row(const float* x, float* y, int64_t n);
void narrow_row(const float* x, bf16* y, int64_t n);

}  // namespace trireme::cpu
