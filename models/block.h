// The transformer block that every family is made of, as one unit:
//
//   h = x + W_o · attention(rotary(qk_norm(W_qkv · norm1(x))))
//   y = h + W_down · act(W_up · norm2(h))
//
// Llama: RMS norm, rotary, grouped-query heads, SwiGLU. Qwen2.5: + biases of q, k, v. Qwen3: + norm of each query and
// key head. GPT-2: layer norm, biases everywhere, learned positions (in the embedding), GELU.
#pragma once

#include <string>

#include "core/config/config.h"
#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "models/layers.h"
#include "parallel/tensor_group.h"
#include "parallel/unit.h"

namespace trireme {

class TransformerBlock final : public Unit {
 public:
  // `rotary_table` f32 [max_positions, D] (see ops/rotary.h), undefined without rotary; shared by all blocks. Each rank of
  // `tensor` has heads / size of the heads and its share of the feed-forward width.
  TransformerBlock(const ModelConfig& config, int64_t layer, Tensor rotary_table, const TensorGroup& tensor);

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override;

  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) override;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  Tensor queries_and_keys(Stream& stream, const Microbatch& microbatch, Tensor qkv, Stash& stash) const;
  ops::Gelu gelu() const;
  Tensor activate(Stream& stream, const Tensor& up) const;
  Tensor up_and_activate(Stream& stream, const Tensor& normed, int64_t num_tokens, Stash& stash) const;
  Tensor down_and_activate_backward(Stream& stream, const Tensor& dy, const Tensor& up, Tensor& whole_dy) const;
  ops::AttentionShape attention_shape(const Microbatch& microbatch) const;

  ModelConfig config_;
  TensorGroup tensor_;
  int64_t num_heads_ = 0;  // on this rank, and so the shapes below
  int64_t num_kv_heads_ = 0;
  std::string name_;
  Tensor rotary_table_;
  NormLayer norm1_;
  LinearLayer qkv_;            // [(H + 2·KV)·D, C]
  Weight q_norm_;              // [D], Qwen3
  Weight k_norm_;              // [D], Qwen3
  LinearLayer attention_out_;  // [C, H·D]
  NormLayer norm2_;
  LinearLayer up_;    // [2F, C]: gate, up; GPT-2: [F, C]
  LinearLayer down_;  // [C, F]
};

}  // namespace trireme
