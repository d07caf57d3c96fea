// Products of tensor parallelism together with the communication beside them, overlapped in the group's chunks.
//
// Column-parallel layers (q, k, v, gate, up) multiply what is gathered, and reduce the gradient of their input;
// row-parallel ones (attention output, down) reduce what they multiply, and gather the gradient of their output.
// x, w, bias as in core/ops/linear.h; N tokens, of which a rank holds `rows` between the blocks (tensor_group.h).
// A chunk is a product of fewer rows. A row's sums are the same, but a matrix library may choose another kernel for
// another number of rows, and add in another order: then results differ from the unchunked ones by rounding.
#pragma once

#include "parallel/tensor_group.h"

namespace trireme {

// gather(x)·wᵀ + bias: x [rows, in] -> [N, out]. `bias` may be undefined.
Tensor gather_linear(Stream& stream, const TensorGroup& group, const Tensor& x, int64_t num_tokens,
                     const Tensor& weight, const Tensor& bias);
// Backward of it: reduce(dy·w), dy [N, out] -> [rows, in].
Tensor gather_linear_backward(Stream& stream, const TensorGroup& group, const Tensor& dy, const Tensor& weight);

// residual + reduce(x·wᵀ + bias): x [N, in] -> [rows, out]. `bias` is summed too: undefined on all ranks but one.
// `residual` [rows, out] may be undefined; one rank alone adds it in the product itself.
Tensor linear_reduce(Stream& stream, const TensorGroup& group, const Tensor& x, const Tensor& weight,
                     const Tensor& bias, const Tensor& residual);
// Backward of it: gather(dy)·w, dy [rows, out] -> [N, in]. `whole_dy` becomes gather(dy) [N, out], which the gradients of
// weight and bias need.
Tensor linear_reduce_backward(Stream& stream, const TensorGroup& group, const Tensor& dy, int64_t num_tokens,
                              const Tensor& weight, Tensor& whole_dy);

}  // namespace trireme
