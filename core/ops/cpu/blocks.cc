#include "core/ops/cpu/blocks.h"

#include "core/ops/cpu/multiversion.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kColumns = 512;  // of one piece

TRIREME_MULTIVERSION
void add_columns(const float* partial, int64_t num_blocks, int64_t stride, int64_t columns, bool accumulate,
                 float* out) {
  float sum[kColumns];
  for (int64_t c = 0; c < columns; ++c) sum[c] = 0.0f;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const float* row = partial + b * stride;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) sum[c] += row[c];
  }
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) out[c] = accumulate ? out[c] + sum[c] : sum[c];
}

}  // namespace

void add_partial_sums(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                      bool accumulate, float* out) {
  pool.for_ranges(columns, kColumns, [&](int64_t begin, int64_t end) {
    add_columns(partial + begin, num_blocks, stride, end - begin, accumulate, out + begin);
  });
}

}  // namespace trireme::cpu
