#include "models/block.h"

#include "models/attention.h"
#include "models/latent_attention.h"
#include "models/mlp.h"
#include "models/moe/carried_logits.h"
#include "models/moe/moe_mlp.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

// What a block keeps for backward, of its n rows; beside it the stashes of its halves.
enum Slot : int {
  kInput,  // x [n, C]
  kMean1,  // statistics of norm1 [n]; means only with layer norm
  kRstd1,
  kNormed1,  // [n, C], recomputable
  kHidden,   // h [n, C]
  kMean2,
  kRstd2,
  kNormed2,  // [n, C], recomputable
  // Between the two halves of backward, weight gradients that backward_input made:
  kGradNorm1,
  kGradNorm2,
};

enum Part : size_t { kAttention, kFeedForward };

void put_stats(Stash& stash, const ops::NormStats& stats, int mean_slot, int rstd_slot) {
  if (stats.mean.defined()) stash.put(mean_slot, stats.mean);
  stash.put(rstd_slot, stats.rstd);
}

ops::NormStats get_stats(const Stash& stash, int mean_slot, int rstd_slot) {
  return {stash.has(mean_slot) ? stash.get(mean_slot) : Tensor{}, stash.get(rstd_slot)};
}

// The layer's number among those with experts.
int64_t moe_layer(const ModelConfig& config, int64_t layer) {
  int64_t before = 0;
  for (int64_t i = 0; i < layer; ++i) before += config.has_experts(i);
  return before;
}

}  // namespace

TransformerBlock::TransformerBlock(const ModelConfig& config, int64_t layer, Tensor rotary_table,
                                   const TensorGroup& tensor, const MoeSetup& moe)
    : name_("layer " + std::to_string(layer)),
      config_(config),
      carried_in_(carries_logits(config, layer)),
      carried_out_(carries_logits(config, layer + 1)) {
  const ParameterNames names(config.family, layer);
  norm1_ = make_norm(names.norm1, config.hidden_size, config, tensor.sequence());
  if (config.latent.kv_rank > 0) {
    attention_ = std::make_unique<LatentAttention>(config, names, std::move(rotary_table), tensor);
  } else {
    attention_ = std::make_unique<GroupedQueryAttention>(config, names, std::move(rotary_table), tensor);
  }
  norm2_ = make_norm(names.norm2, config.hidden_size, config, tensor.sequence());
  if (config.has_experts(layer)) {
    auto experts = std::make_unique<MoeMlp>(config, names, moe_layer(config, layer), moe, carried_in_);
    experts_ = experts.get();
    feed_forward_ = std::move(experts);
  } else {
    feed_forward_ = std::make_unique<Mlp>(config, names.mlp, config.ffn_size, tensor);
  }
}

// The first of the rows whose logits the feed-forward half has; logits that only pass are those of all.
int64_t TransformerBlock::first_row(const Microbatch& microbatch) const {
  return experts_ != nullptr ? experts_->first_own_row(microbatch) : 0;
}

std::vector<Weight*> TransformerBlock::weights() {
  std::vector<Weight*> list;
  norm1_.list_weights(list);
  attention_->list_weights(list);
  norm2_.list_weights(list);
  feed_forward_->list_weights(list);
  return list;
}

Tensor TransformerBlock::forward(Stream& stream, const Microbatch& microbatch, const Tensor& from, Stash& stash) {
  const CarriedLogits in = carried_in_ ? split_logits(stream, config_, from) : CarriedLogits{from, {}};
  const Tensor& x = in.hidden;
  stash.put(kInput, x);
  ops::NormStats stats1;
  const Tensor normed1 = norm1_.forward(stream, x, stats1);
  put_stats(stash, stats1, kMean1, kRstd1);
  stash.put(kNormed1, normed1);

  // The norm that follows adds x.
  Tensor hidden = attention_->forward(stream, microbatch, normed1, /*residual=*/{}, stash.part(kAttention));
  ops::NormStats stats2;
  const Tensor normed2 = norm2_.add_forward(stream, hidden, x, stats2);
  stash.put(kHidden, hidden);
  put_stats(stash, stats2, kMean2, kRstd2);
  stash.put(kNormed2, normed2);

  Stash& part = stash.part(kFeedForward);
  Tensor logits = in.logits;
  const Tensor y = experts_ != nullptr ? experts_->forward(stream, microbatch, normed2, hidden, in.logits, logits, part)
                                       : feed_forward_->forward(stream, microbatch, normed2, hidden, part);
  return carried_out_ ? join_logits(stream, config_, y, logits, first_row(microbatch)) : y;
}

void TransformerBlock::drop_recomputable(Stash& stash) {
  stash.drop(kNormed1);
  stash.drop(kNormed2);
  attention_->drop_recomputable(stash.part(kAttention));
  feed_forward_->drop_recomputable(stash.part(kFeedForward));
}

void TransformerBlock::recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  ops::NormStats stats1 = get_stats(stash, kMean1, kRstd1);
  stash.put(kNormed1, norm1_.forward(stream, stash.get(kInput), stats1));
  ops::NormStats stats2 = get_stats(stash, kMean2, kRstd2);
  stash.put(kNormed2, norm2_.forward(stream, stash.get(kHidden), stats2));
  feed_forward_->recompute(stream, microbatch, stash.part(kFeedForward));
  attention_->recompute(stream, microbatch, stash.part(kAttention));
}

Tensor TransformerBlock::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& from,
                                        Stash& stash) {
  const CarriedLogits behind = carried_out_ ? split_logits(stream, config_, from) : CarriedLogits{from, {}};
  const Tensor& dy = behind.hidden;
  Stash& part = stash.part(kFeedForward);
  Tensor dlogits = behind.logits;
  const Tensor dnormed2 = experts_ != nullptr
                              ? experts_->backward_input(stream, microbatch, dy, behind.logits, dlogits, part)
                              : feed_forward_->backward_input(stream, microbatch, dy, part);
  Tensor dhidden;
  stash.put(kGradNorm2, norm2_.backward_input(stream, dnormed2, stash.take(kHidden), get_stats(stash, kMean2, kRstd2),
                                              dy, dhidden));
  const Tensor dnormed1 = attention_->backward_input(stream, microbatch, dhidden, stash.part(kAttention));
  Tensor dx;
  stash.put(kGradNorm1,
            norm1_.backward_input(stream, dnormed1, stash.take(kInput), get_stats(stash, kMean1, kRstd1), dhidden, dx));
  return carried_in_ ? join_logits(stream, config_, dx, dlogits, first_row(microbatch)) : dx;
}

void TransformerBlock::backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  feed_forward_->backward_weight(stream, microbatch, stash.take(kNormed2), stash.part(kFeedForward));
  norm2_.backward_weight(stream, stash.take(kGradNorm2));
  attention_->backward_weight(stream, microbatch, stash.take(kNormed1), stash.part(kAttention));
  norm1_.backward_weight(stream, stash.take(kGradNorm1));
  stash.clear();
}

}  // namespace trireme
