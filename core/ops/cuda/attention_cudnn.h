// Attention through cuDNN's fused kernels, on tensor cores.
//
// It takes calls in bf16 of 128 positions and more, with a head dim that is a multiple of 8; cuDNN may refuse some of
// those, by GPU and version. Backward is asked for in its deterministic form. The statistics are those of our contract:
// natural logarithms, fp32. The first call of a shape builds the plans of both passes (up to a second each) and the
// memory they need; later calls only queue work. Built without cuDNN's C++ frontend, all calls are refused.
//
// Documents are a mask that is added to the scores (document_mask.h), made anew in each call: the host needs to know
// nothing of them, and a CUDA graph takes any. cuDNN's packed layout would skip what the mask hides, but it has no
// deterministic backward pass on other GPUs than Hopper, and there its memory grows with the number of documents × T².
#pragma once

#include <string>

#include "core/ops/attention.h"

namespace trireme::cuda {

// Why a call of this kind isn't for cuDNN; empty when it is. The same answer every time. Never throws.
std::string cudnn_attention_refusal(Stream& stream, const ops::AttentionShape& shape, DType dtype, bool documents);

// A GPU that need not be here, as cuDNN writes it down (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION; since cuDNN 9.8).
struct DescribedGpu {
  std::string json;
  int compute_capability = 0;  // 900 for 9.0
};
// The same for a GPU that need not be here, up to the point where kernels are loaded. It wants libcuda.so.1, be it the
// toolkit's stub. Never throws.
std::string cudnn_attention_refusal_of(const DescribedGpu& gpu, const ops::AttentionShape& shape, DType dtype,
                                       bool documents);

// False when cuDNN does not take the call: then nothing is queued.
bool cudnn_attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                             const Tensor& document_start, Tensor& out, Tensor& lse);
bool cudnn_attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                              const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                              Tensor& dqkv);

}  // namespace trireme::cuda
