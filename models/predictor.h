// A module of multi-token prediction (DeepSeek-AI 2024, "DeepSeek-V3", section 2.2). Module k = 1, 2, … makes of the hidden
// states of the module before it (those of the model, before its final norm, for k = 1), and of the tokens k places ahead,
// hidden states that predict one token further:
//
//   h^k_i = block(M_k · [norm(embedding(t_{i+k})); norm(h^{k−1}_i)])
//
// The block is a layer as the model's own are, numbered behind them; queries and keys have position i. What the hidden
// states say about t_{i+k+1}, norm and cross-entropy, is the loss head's part (loss_head.h), which owns the modules.
//
// Positions without a token k places ahead (Microbatch::ahead) run as well, and nothing but their own rows sees them: their
// labels don't count, and attention looks back only. A router of the module takes them for tokens like others: they count in
// its loads, balance losses, selection bias and capacity, k of the T rows of a sequence or document. So Megatron-LM has it;
// leaving them out would take other numbers of tokens in every one of these.
//
// Over a tensor group hidden states are rows as everywhere. M_k [C, 2C] is whole on every rank, which multiplies the rows
// that it holds: with sequence parallelism its gradient is partial over the group, without it all ranks do the same.
//
// Not a unit: forward and backward come one after the other inside of the head's forward.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "models/block.h"
#include "models/layers.h"

namespace trireme {

class Predictor {
 public:
  // `layer`: from config.num_layers on. `table` is a use of the embedding's table with gradients of its own, or shares
  // them with the head where that is tied; it outlives the module.
  Predictor(const ModelConfig& config, int64_t layer, const Tensor& rotary_table, const TensorGroup& tensor,
            const MoeSetup& moe, Weight* table);

  void list_weights(std::vector<Weight*>& list);  // all but the table
  std::vector<Weight*> block_weights() { return block_.weights(); }
  // In front of the head.
  NormLayer& head_norm() { return head_norm_; }

  // `tokens` i32 [N] (Microbatch::ahead), hidden [rows, C] -> [rows, C].
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& tokens, const Tensor& hidden,
                 Stash& stash);
  // Gradients of the hidden states that came in, added to `residual`; writes or adds those of the weights, the table among
  // them.
  Tensor backward(Stream& stream, const Microbatch& microbatch, const Tensor& tokens, const Tensor& dy,
                  const Tensor& residual, Stash& stash);

 private:
  TensorGroup tensor_;
  Weight* table_;
  NormLayer embedding_norm_;
  NormLayer hidden_norm_;
  LinearLayer join_;
  TransformerBlock block_;
  NormLayer head_norm_;
};

}  // namespace trireme
