// Activation functions of the feed-forward layer, forward and backward. f32 or bf16, computed in fp32.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

enum class Gelu : uint8_t {
  tanh,  // 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), GPT-2's
  erf,   // 0.5·x·(1 + erf(x/√2)), Hendrycks & Gimpel 2016
};

// y = gelu(x). x, y [N, F]; y may alias x.
void gelu_forward(Stream& stream, const Tensor& x, Gelu kind, Tensor& y);
// dx = dy · gelu'(x). dx may alias dy.
void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& x, Gelu kind, Tensor& dx);

// y = silu(gate) · up (Shazeer 2020). gate_up [N, 2F]: a row holds F gates, then F ups; y [N, F].
void swiglu_forward(Stream& stream, const Tensor& gate_up, Tensor& y);
// dgate_up [N, 2F] may alias gate_up.
void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, Tensor& dgate_up);

}  // namespace trireme::ops
