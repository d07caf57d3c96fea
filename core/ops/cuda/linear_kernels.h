// What linear layers need beside products.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

// out = base + bias in every row; base undefined: bias alone. out f32 [N, C], base f32 or bf16 (may alias out), bias f32
// or bf16 [C].
void add_bias_rows(Stream& stream, const Tensor& base, const Tensor& bias, Tensor& out);

// out (+)= sums of the columns of x [N, C] (f32 or bf16), out f32 [C] or bf16, then rounded once. The order of the sum
// depends on N alone. N > 0.
void column_sums(Stream& stream, const Tensor& x, bool accumulate, Tensor& out);

}  // namespace trireme::cuda
