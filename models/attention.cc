#include "models/attention.h"

#include <cmath>

#include "core/ops/norm.h"
#include "core/ops/rotary.h"

namespace trireme {

namespace {

// N tokens, n of them on this rank between the blocks; H and KV are this rank's.
enum Slot : int {
  kRawQkv,      // W_qkv's output before qk_norm, Qwen3 only
  kQkNormRstd,  // [N, H + KV], Qwen3 only
  kQkv,         // what attention reads [N, (H + 2·KV)·D]; recomputable with qk_norm
  kAttention,   // [N, H·D]
  kLse,         // [B, H, T]
  // Between the two halves of backward:
  kGradOutput,  // [N, C]
  kGradQkv,
  kGradQNorm,  // weight gradients that backward_input made
  kGradKNorm,
};

}  // namespace

GroupedQueryAttention::GroupedQueryAttention(const ModelConfig& config, const ParameterNames& names,
                                             Tensor rotary_table, const TensorGroup& tensor)
    : config_(config),
      tensor_(tensor),
      num_heads_(config.num_heads / tensor.size()),
      num_kv_heads_(config.num_kv_heads / tensor.size()),
      rotary_table_(std::move(rotary_table)) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_rows = config.num_heads * config.head_dim;
  const int64_t kv_rows = config.num_kv_heads * config.head_dim;
  const bool gpt2 = config.family == ModelFamily::gpt2;
  const double std = config.initializer_range;
  const auto column = [](Parameter p) { return column_parallel(std::move(p)); };
  qkv_.weight = Weight(column(make_matrix(names.q, q_rows, hidden, std)));
  qkv_.weight.parts.push_back(column(make_matrix(names.k, kv_rows, hidden, std)));
  qkv_.weight.parts.push_back(column(make_matrix(names.v, kv_rows, hidden, std)));
  if (gpt2 || config.attention_bias) {
    qkv_.bias = Weight(column(make_bias(names.q, q_rows)));
    qkv_.bias.parts.push_back(column(make_bias(names.k, kv_rows)));
    qkv_.bias.parts.push_back(column(make_bias(names.v, kv_rows)));
  }
  if (config.qk_norm) {  // one weight for all heads, of which each rank sees its own
    q_norm_ = Weight(partial_over_tensor(make_norm_weight(names.q_norm, config.head_dim)));
    k_norm_ = Weight(partial_over_tensor(make_norm_weight(names.k_norm, config.head_dim)));
  }
  out_.weight = Weight(row_parallel(make_matrix(names.o, hidden, q_rows, residual_std(config))));
  if (gpt2) out_.bias = Weight(make_bias(names.o, hidden));
}

void GroupedQueryAttention::list_weights(std::vector<Weight*>& list) {
  qkv_.list_weights(list);
  if (q_norm_) list.push_back(&q_norm_);
  if (k_norm_) list.push_back(&k_norm_);
  out_.list_weights(list);
}

ops::AttentionShape GroupedQueryAttention::shape(const Microbatch& microbatch) const {
  return {microbatch.batch, microbatch.sequence, num_heads_,
          num_kv_heads_,    config_.head_dim,    1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
}

// Norm (Qwen3) and rotation of the query and key heads. `qkv` is changed in place unless it is kept raw.
Tensor GroupedQueryAttention::queries_and_keys(Stream& stream, const Microbatch& microbatch, Tensor qkv,
                                               Stash& stash) const {
  if (config_.qk_norm) {
    Tensor normed = Tensor::empty(stream, qkv.shape(), qkv.dtype());
    Tensor rstd = Tensor::empty(stream, {qkv.dim(0), num_heads_ + num_kv_heads_}, DType::f32);
    ops::qk_norm_forward(stream, qkv, q_norm_.value, k_norm_.value, num_heads_, num_kv_heads_,
                         static_cast<float>(config_.norm_eps), normed, rstd);
    stash.put(kRawQkv, qkv);
    stash.put(kQkNormRstd, rstd);
    qkv = normed;
  }
  if (rotary_table_.defined()) {
    ops::rotary(stream, qkv, microbatch.positions, rotary_table_, num_heads_ + num_kv_heads_, config_.head_dim,
                /*inverse=*/false);
  }
  stash.put(kQkv, qkv);
  return qkv;
}

Tensor GroupedQueryAttention::forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed,
                                      const Tensor& residual, Stash& stash) {
  const int64_t num_tokens = microbatch.num_tokens();
  const Tensor raw_qkv = qkv_.column_forward(stream, tensor_, normed, num_tokens);
  const Tensor qkv = queries_and_keys(stream, microbatch, raw_qkv, stash);
  Tensor attention = Tensor::empty(stream, {num_tokens, num_heads_ * config_.head_dim}, normed.dtype());
  Tensor lse = Tensor::empty(stream, {microbatch.batch, num_heads_, microbatch.sequence}, DType::f32);
  ops::attention_forward(stream, shape(microbatch), qkv, microbatch.document_start, attention, lse);
  stash.put(kAttention, attention);
  stash.put(kLse, lse);
  return out_.row_forward(stream, tensor_, attention, residual);
}

void GroupedQueryAttention::drop_recomputable(Stash& stash) {
  if (config_.qk_norm) stash.drop(kQkv);
}

void GroupedQueryAttention::recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  if (config_.qk_norm) queries_and_keys(stream, microbatch, stash.get(kRawQkv), stash);
}

Tensor GroupedQueryAttention::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy,
                                             Stash& stash) {
  Tensor whole_dy;
  const Tensor dattention = out_.row_backward_input(stream, tensor_, dy, microbatch.num_tokens(), whole_dy);
  stash.put(kGradOutput, whole_dy);
  const Tensor qkv = stash.take(kQkv);
  Tensor dqkv = Tensor::empty(stream, qkv.shape(), qkv.dtype());
  ops::attention_backward(stream, shape(microbatch), qkv, microbatch.document_start, stash.get(kAttention),
                          stash.take(kLse), dattention, dqkv);
  if (rotary_table_.defined()) {
    ops::rotary(stream, dqkv, microbatch.positions, rotary_table_, num_heads_ + num_kv_heads_, config_.head_dim,
                /*inverse=*/true);
  }
  if (config_.qk_norm) {
    Tensor dq_norm = Tensor::empty(stream, {config_.head_dim}, DType::f32);
    Tensor dk_norm = Tensor::empty(stream, {config_.head_dim}, DType::f32);
    ops::qk_norm_backward(stream, dqkv, stash.take(kRawQkv), q_norm_.value, k_norm_.value, stash.take(kQkNormRstd),
                          num_heads_, num_kv_heads_, dq_norm, dk_norm);
    stash.put(kGradQNorm, dq_norm);
    stash.put(kGradKNorm, dk_norm);
  }
  stash.put(kGradQkv, dqkv);
  return qkv_.column_backward_input(stream, tensor_, dqkv);
}

// Of the normed inputs only this rank's rows were kept; the others come again.
void GroupedQueryAttention::backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) {
  out_.backward_weight(stream, stash.take(kGradOutput), stash.take(kAttention));
  qkv_.backward_weight(stream, stash.take(kGradQkv), tensor_.gather(stream, normed, microbatch.num_tokens()));
  if (config_.qk_norm) {
    add_gradient(stream, stash.take(kGradQNorm), q_norm_);
    add_gradient(stream, stash.take(kGradKNorm), k_norm_);
  }
}

}  // namespace trireme
