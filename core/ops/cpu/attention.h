// Attention on the CPU: the contract is core/ops/attention.h.
//
// attention.cc cuts the work into tasks, one of the builds of attention_tiles.h (one per instruction set) computes
// them. The calls themselves are in kernels.h.
#pragma once

#include <vector>

#include "core/ops/attention.h"
#include "core/ops/cpu/attention_task.h"

namespace trireme::cpu {

// The kernels for tensors of `dtype` (f32 or bf16) that this machine can run, the fastest first: the ops take that.
std::vector<const AttentionKernels*> attention_kernels(DType dtype);

// The same with given kernels, for tests and benchmarks.
void attention_forward(const AttentionKernels& kernels, Stream& stream, const ops::AttentionShape& shape,
                       const Tensor& qkv, const Tensor& document_start, Tensor& out, Tensor& lse);
void attention_backward(const AttentionKernels& kernels, Stream& stream, const ops::AttentionShape& shape,
                        const Tensor& qkv, const Tensor& document_start, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, Tensor& dqkv);

}  // namespace trireme::cpu
