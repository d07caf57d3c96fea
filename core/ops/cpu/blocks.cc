#include "core/ops/cpu/blocks.h"

#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kColumns = 512;  // of one piece

template <class T>
TRIREME_MULTIVERSION void add_columns(const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                                      bool accumulate, T* out) {
  float sum[kColumns];
  for (int64_t c = 0; c < columns; ++c) sum[c] = 0.0f;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const float* row = partial + b * stride;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) sum[c] += row[c];
  }
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) math::store(out + c, accumulate ? math::load(out + c) + sum[c] : sum[c]);
}

template <class T>
void add_all(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
             bool accumulate, T* out) {
  pool.for_ranges(columns, kColumns, [&](int64_t begin, int64_t end) {
    add_columns(partial + begin, num_blocks, stride, end - begin, accumulate, out + begin);
  });
}

}  // namespace

void add_partial_sums(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                      bool accumulate, float* out) {
  add_all(pool, partial, num_blocks, stride, columns, accumulate, out);
}

void add_partial_sums(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                      bool accumulate, bf16* out) {
  add_all(pool, partial, num_blocks, stride, columns, accumulate, out);
}

}  // namespace trireme::cpu
