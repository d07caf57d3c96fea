// Attention with grouped queries: y = W_o · attention(rotary(qk_norm(W_qkv · x))).
//
// Llama: rotary. Qwen2.5: + biases of q, k, v. Qwen3: + norm of each query and key head. GPT-2: biases everywhere, no
// rotary (positions are learned, in the embedding).
#pragma once

#include "core/config/config.h"
#include "core/ops/attention.h"
#include "models/block_half.h"
#include "models/layers.h"
#include "models/parameter_names.h"
#include "parallel/tensor_group.h"

namespace trireme {

class GroupedQueryAttention final : public BlockHalf {
 public:
  // `rotary_table` as of TransformerBlock. Each rank of `tensor` has heads / size of the heads.
  GroupedQueryAttention(const ModelConfig& config, const ParameterNames& names, Tensor rotary_table,
                        const TensorGroup& tensor);

  void list_weights(std::vector<Weight*>& list) override;
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                 Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) override;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  Tensor queries_and_keys(Stream& stream, const Microbatch& microbatch, Tensor qkv, Stash& stash) const;
  ops::AttentionShape shape(const Microbatch& microbatch) const;

  ModelConfig config_;
  TensorGroup tensor_;
  int64_t num_heads_ = 0;  // on this rank, and so the shapes below
  int64_t num_kv_heads_ = 0;
  Tensor rotary_table_;
  LinearLayer qkv_;  // [(H + 2·KV)·D, C]
  Weight q_norm_;    // [D], Qwen3
  Weight k_norm_;    // [D], Qwen3
  LinearLayer out_;  // [C, H·D]
};

}  // namespace trireme
