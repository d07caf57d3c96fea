#include "core/ops/cpu/row_sums.h"

#include <algorithm>

#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

void widen_row(const float* x, float* y, int64_t n) { std::copy(x, x + n, y); }
void narrow_row(const float* x, float* y, int64_t n) { std::copy(x, x + n, y); }

TRIREME_MULTIVERSION
void widen_row(const bf16* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::load(x + i);
}

TRIREME_MULTIVERSION
void narrow_row(const float* x, bf16* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, x[i]);
}

}  // namespace trireme::cpu
