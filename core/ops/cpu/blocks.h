// How the CPU kernels cut their work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/device/thread_pool.h"
#include "core/ops/float_type.h"
#include "core/tensor/tensor.h"

namespace trireme::cpu {

// Elements of one piece of work: big enough to hide the hand-over between threads (about a microsecond), small enough
// to lie in the L2 cache.
inline constexpr int64_t kGrain = 16384;

inline int64_t rows_per_piece(int64_t columns) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(columns, 1)); }

// Sums over the rows of a matrix run over blocks of rows, each into its own row of partial sums; the partial sums are
// then added in order. At most 512 blocks, of at least 32 rows.
inline int64_t rows_per_block(int64_t rows) { return std::max<int64_t>(32, (rows + 511) / 512); }
inline int64_t num_row_blocks(int64_t rows) { return (rows + rows_per_block(rows) - 1) / rows_per_block(rows); }

// out[c] (+)= Σ_b partial[b·stride + c], in ascending b, for c in [0, columns).
void add_partial_sums(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                      bool accumulate, float* out);
// The same into bf16, rounded once.
void add_partial_sums(ThreadPool& pool, const float* partial, int64_t num_blocks, int64_t stride, int64_t columns,
                      bool accumulate, bf16* out);

}  // namespace trireme::cpu
