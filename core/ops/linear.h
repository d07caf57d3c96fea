// Linear layers: y = x·wᵀ + b, and its two backward halves.
//
// x [N, in], w [out, in], b [out], y [N, out]. x, w, b and y share a dtype (f32 or bf16); gradients of weights are f32
// or bf16, whatever the others are. The sums inside are fp32. N, in and out are arbitrary, 0 rows included.
#pragma once

#include "core/ops/activation.h"
#include "core/tensor/tensor.h"

namespace trireme::ops {

// y = x·wᵀ + bias. `bias` may be undefined. y may be f32 while x and w are bf16 (logits).
void linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y);

// y = residual + x·wᵀ + bias. residual [N, out], of y's and x's dtype, may be y itself. The sum is formed in fp32 and rounded
// once.
void linear_add_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& residual, Tensor& y);

// dx = dy·w, or dx += dy·w.
void linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, Tensor& dx, bool accumulate);

// dw = dyᵀ·x, or dw += dyᵀ·x; dbias likewise with the column sums of dy; `dbias` may be undefined.
// dw f32 or bf16 [out, in], dbias [out] of dw's dtype. In bf16 the sum of the call, with what was there before, is
// formed in fp32 and rounded once, to nearest.
void linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                            bool accumulate);

// up = x·wᵀ + bias, y = gelu(up): the layer before an activation, and the activation. `bias` may be undefined; up and y
// [N, out] of x's dtype. True when one kernel made both: then y comes of the sum before it was rounded to up, other bits
// than gelu_forward(up) gives, and whoever recomputes must keep y. The same for every call of a shape on a stream.
[[nodiscard]] bool linear_gelu_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                                       Gelu kind, Tensor& up, Tensor& y);

// dup = (dy·w) · gelu'(up): backward through y = gelu(up) and the layer behind it, whose weight is w [out, in]. up and
// dup [N, in], dy [N, out]. dup aliases neither.
void linear_gelu_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& up, Gelu kind,
                                Tensor& dup);

}  // namespace trireme::ops
