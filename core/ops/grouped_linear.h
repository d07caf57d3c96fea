// Linear layers of several experts in one call: rows [offsets[g], offsets[g + 1]) of x meet weight g.
//
// x [R, in], weight [G·out, in] (G matrices [out, in] one after another), y [R, out], all of one dtype, f32 or bf16.
// `offsets` has G + 1 ascending numbers from 0 to R, on the host, and is read during the call. A group may have no rows.
// Sums inside are fp32. A row's result may differ from ops::linear_forward's by rounding.
#pragma once

#include <span>

#include "core/tensor/tensor.h"

namespace trireme::ops {

using RowOffsets = std::span<const int64_t>;

// y = x·wᵀ
void grouped_linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, RowOffsets offsets, Tensor& y);
// dx = dy·w
void grouped_linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, RowOffsets offsets,
                                   Tensor& dx);
// dw = dyᵀ·x of each group, or dw += that; 0 (or unchanged) for a group without rows. dweight f32 or bf16 [G·out, in], as in
// linear_backward_weight.
void grouped_linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, RowOffsets offsets,
                                    Tensor& dweight, bool accumulate);

}  // namespace trireme::ops
