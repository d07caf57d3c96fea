// Attention through cuDNN's fused kernels, on tensor cores.
//
// It takes calls in bf16 without documents, of 128 positions and more, with a head dim that is a multiple of 8; cuDNN may
// refuse some of those, by GPU and version. Backward is asked for in its deterministic form. The statistics are those of
// our contract: natural logarithms, fp32. The first call of a shape builds the plans of both passes (up to a second) and
// the memory they need; later calls only queue work. Built without cuDNN's C++ frontend, all calls are refused.
#pragma once

#include <string>

#include "core/ops/attention.h"

namespace trireme::cuda {

// Why a call of this kind isn't for cuDNN; empty when it is. The same answer every time. Never throws.
std::string cudnn_attention_refusal(Stream& stream, const ops::AttentionShape& shape, DType dtype, bool documents);

// False when cuDNN does not take the call: then nothing is queued.
bool cudnn_attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv, Tensor& out,
                             Tensor& lse);
bool cudnn_attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                              const Tensor& lse, const Tensor& dout, Tensor& dqkv);

}  // namespace trireme::cuda
