// Causal self-attention with grouped-query heads and document boundaries, tiled (Dao 2023, "FlashAttention-2"): the T×T
// matrix of scores never exists as a whole.
//
// qkv [B·T, (H + 2·KV)·D], f32 or bf16: a row holds H query heads, KV key heads, KV value heads; query head h reads key
// head h / (H / KV). out [B·T, H·D]. lse f32 [B, H, T]: log of the sum of exponentials of each row of scores.
// document_start i32 [B·T]: position t of a sequence sees positions document_start[t] … t; undefined: 0 … t. It must
// not decrease along a sequence. Scores, softmax and sums are fp32. Bits do not depend on the number of threads.
#pragma once

#include <string>

#include "core/tensor/tensor.h"

namespace trireme::ops {

struct AttentionShape {
  int64_t batch = 0;
  int64_t sequence = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0f;  // of the scores, usually 1/√D
};

void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
                       Tensor& out, Tensor& lse);

// dqkv [B·T, (H + 2·KV)·D] is overwritten. `out` and `lse` are those of the forward call.
void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
                        const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dqkv);

// Which kernels such calls run on, for people: "cuDNN", "plain kernels (cuDNN: not in bf16)", "avx512". They differ in
// speed. On a GPU this prepares what the first call would.
std::string describe_attention(Stream& stream, const AttentionShape& shape, DType dtype, bool documents);

}  // namespace trireme::ops
