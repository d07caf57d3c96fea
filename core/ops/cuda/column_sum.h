// Adds up partial sums of columns that the blocks of a kernel have left in memory.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

// first[c] = Σ_p partial[p, 0, c] and, where `second` is defined, second[c] = Σ_p partial[p, 1, c], in a fixed order.
// partial f32 [parts, 1 or 2, C]; first, second f32 [C].
void add_partial_sums(Stream& stream, const Tensor& partial, Tensor& first, Tensor& second);

// Blocks of the kernels that leave such sums: two for each of 132 multiprocessors, a constant, so that the order of the
// sums doesn't depend on the GPU.
inline constexpr int64_t kMostParts = 264;

}  // namespace trireme::cuda
