// The transformer block that every family is made of, as one unit:
//
//   h = x + attention(norm1(x))
//   y = h + feed_forward(norm2(h))
//
// The norms are RMS norms, GPT-2's layer norms. What the halves are, the configuration says: attention.h or
// latent_attention.h, mlp.h or moe/moe_mlp.h.
#pragma once

#include <memory>
#include <string>

#include "core/config/config.h"
#include "models/block_half.h"
#include "models/layers.h"
#include "models/moe/setup.h"
#include "parallel/tensor_group.h"

namespace trireme {

class MoeMlp;

class TransformerBlock final : public Unit {
 public:
  // `rotary_table` f32 [max_positions, D] (see ops/rotary.h), undefined without rotary; shared by all blocks.
  TransformerBlock(const ModelConfig& config, int64_t layer, Tensor rotary_table, const TensorGroup& tensor,
                   const MoeSetup& moe);

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override;

  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) override;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  int64_t first_row(const Microbatch& microbatch) const;

  std::string name_;
  NormLayer norm1_;
  std::unique_ptr<BlockHalf> attention_;
  NormLayer norm2_;
  std::unique_ptr<BlockHalf> feed_forward_;

  ModelConfig config_;
  MoeMlp* experts_ = nullptr;  // the feed-forward half, where it consists of experts
  bool carried_in_;            // logits of routers, with the hidden states (moe/carried_logits.h)
  bool carried_out_;
};

}  // namespace trireme
