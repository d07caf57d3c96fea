// Attention in plain CUDA: correct for every shape and dtype of the contract, at the speed of ordinary fp32 arithmetic.
// Where cuDNN takes a call, it is several times as fast (attention_cudnn.h).
#pragma once

#include "core/ops/attention.h"

namespace trireme::cuda {

void plain_attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                             const Tensor& document_start, Tensor& out, Tensor& lse);
void plain_attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                              const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                              Tensor& dqkv);

}  // namespace trireme::cuda
