// Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1): keys and values of all heads come of one narrow
// latent, queries of another; a part of every query and one key for all heads carry the position.
//
//   c_q = norm(W_qa · x),  q = W_qb · c_q            (or q = W_q · x)
//   c_kv = norm(W_kva · x), kv = W_kvb · c_kv, k_rope = W_kr · x
//   y = W_o · attention(q, kv, rotary)
//
// The matrices from latents to heads are cut over the tensor group by heads; those to the latents are whole on every rank
// and meet the rows that it holds.
#pragma once

#include "core/config/config.h"
#include "core/ops/attention.h"
#include "core/ops/latent_heads.h"
#include "models/block_half.h"
#include "models/layers.h"
#include "models/parameter_names.h"
#include "parallel/tensor_group.h"

namespace trireme {

class LatentAttention final : public BlockHalf {
 public:
  // `rotary_table` f32 [max_positions, rope_dim].
  LatentAttention(const ModelConfig& config, const ParameterNames& names, Tensor rotary_table,
                  const TensorGroup& tensor);

  void list_weights(std::vector<Weight*>& list) override;
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                 Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) override;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  // A latent with its norm, of this rank's rows: c = norm(w · x).
  struct Latent {
    Weight down;  // [rank (+ rope), C]
    NormLayer norm;
  };
  ops::AttentionShape shape(const Microbatch& microbatch) const;
  // Of the matrix to the latent of keys and values, or its gradient: the rows of the latent, and of the shared key.
  Tensor kv_rows(const Tensor& whole) const;
  Tensor key_rows(const Tensor& whole) const;
  Tensor values_of(Stream& stream, const Tensor& attention) const;
  // Slots from `first_slot` on: the latent before its norm, statistics, the normed latent; gradients of the first and of
  // the norm's weight from `gradient_slot` on.
  Tensor latent_forward(Stream& stream, const NormLayer& norm, const Tensor& weight, const Tensor& x, int first_slot,
                        Stash& stash) const;
  Tensor latent_backward(Stream& stream, const NormLayer& norm, const Tensor& dnormed, int first_slot,
                         int gradient_slot, Stash& stash) const;

  ModelConfig config_;
  TensorGroup tensor_;
  ops::LatentHeads heads_;  // on this rank
  Tensor rotary_table_;
  bool with_q_latent_;
  Latent q_;           // [q_rank, C]; none where queries are projected at once
  LinearLayer q_up_;   // [H·(nope + rope), q_rank], or [.., C]
  Latent kv_;          // [kv_rank + rope, C]: the latent, and the shared key
  LinearLayer kv_up_;  // [H·(nope + v), kv_rank]
  LinearLayer out_;    // [C, H·v]
};

}  // namespace trireme
