#include "models/latent_attention.h"

#include <cmath>

#include "core/ops/linear.h"
#include "models/rotary_table.h"

namespace trireme {

namespace {

constexpr float kLatentEps = 1e-6f;  // of the latents' norms, whatever the blocks' is

// N tokens, n of them on this rank between the blocks; H is this rank's.
enum Slot : int {
  kQueryLatent,  // before its norm [n, q_rank]
  kQueryRstd,
  kQueryNormed,  // recomputable
  kLatent,       // [n, kv_rank]
  kLatentRstd,
  kLatentNormed,  // recomputable
  kQkv,           // what attention reads [N, 3·H·D]
  kAttention,     // [N, H·D]
  kLse,           // [B, H, T]
  // Between the two halves of backward:
  kGradOutput,       // [N, C]
  kGradQueries,      // [N, H·(nope + rope)]
  kGradKeysValues,   // [N, H·(nope + v)]
  kGradQueryLatent,  // before the norm
  kGradQueryNorm,
  kGradLatent,
  kGradLatentNorm,
  kGradSharedKey,  // [n, rope]
};

}  // namespace

LatentAttention::LatentAttention(const ModelConfig& config, const ParameterNames& names, Tensor rotary_table,
                                 const TensorGroup& tensor)
    : config_(config),
      tensor_(tensor),
      heads_{.num_heads = config.num_heads / tensor.size(),
             .nope = config.latent.nope_dim,
             .rope = config.latent.rope_dim,
             .v = config.latent.v_dim},
      rotary_table_(std::move(rotary_table)),
      with_q_latent_(config.latent.q_rank > 0) {
  const LatentAttentionConfig& latent = config.latent;
  const int64_t hidden = config.hidden_size;
  const double std = config.initializer_range;
  // What meets the rows that this rank holds between the blocks.
  const auto of_rows = [&](Parameter p) { return tensor.sequence() ? partial_over_tensor(std::move(p)) : p; };
  const auto norm = [&](const std::string& name, int64_t size) {
    NormLayer layer = make_norm(name, size, config, tensor.sequence());
    layer.eps = kLatentEps;
    return layer;
  };
  const int64_t q_rows = config.num_heads * (latent.nope_dim + latent.rope_dim);
  if (with_q_latent_) {
    q_.down = Weight(of_rows(make_matrix(names.q_a, latent.q_rank, hidden, std)));
    q_.norm = norm(names.q_a_norm, latent.q_rank);
    q_up_.weight = Weight(column_parallel(make_matrix(names.q_b, q_rows, latent.q_rank, std)));
  } else {
    q_up_.weight = Weight(column_parallel(make_matrix(names.q, q_rows, hidden, std)));
  }
  kv_.down = Weight(of_rows(make_matrix(names.kv_a, latent.kv_rank + latent.rope_dim, hidden, std)));
  kv_.norm = norm(names.kv_a_norm, latent.kv_rank);
  const int64_t kv_rows = config.num_heads * (latent.nope_dim + latent.v_dim);
  kv_up_.weight = Weight(column_parallel(make_matrix(names.kv_b, kv_rows, latent.kv_rank, std)));
  out_.weight =
      Weight(row_parallel(make_matrix(names.o, hidden, config.num_heads * latent.v_dim, residual_std(config))));
}

void LatentAttention::list_weights(std::vector<Weight*>& list) {
  if (with_q_latent_) {
    list.push_back(&q_.down);
    q_.norm.list_weights(list);
  }
  q_up_.list_weights(list);
  list.push_back(&kv_.down);
  kv_.norm.list_weights(list);
  kv_up_.list_weights(list);
  out_.list_weights(list);
}

ops::AttentionShape LatentAttention::shape(const Microbatch& microbatch) const {
  const float scale =
      static_cast<float>(latent_score_factor(config_.rope)) / std::sqrt(static_cast<float>(heads_.qk()));
  return {microbatch.batch, microbatch.sequence, heads_.num_heads, heads_.num_heads, heads_.width(), scale};
}

// Allocates what the latent keeps, and returns it normed: `weight` [rank, C] times x [n, C].
Tensor LatentAttention::latent_forward(Stream& stream, const NormLayer& norm, const Tensor& weight, const Tensor& x,
                                       int first_slot, Stash& stash) const {
  Tensor raw = Tensor::empty(stream, {x.dim(0), weight.dim(0)}, x.dtype());
  ops::linear_forward(stream, x, weight, Tensor{}, raw);
  ops::NormStats stats;
  const Tensor normed = norm.forward(stream, raw, stats);
  stash.put(first_slot, raw);
  stash.put(first_slot + 1, stats.rstd);
  stash.put(first_slot + 2, normed);
  return normed;
}

Tensor LatentAttention::kv_rows(const Tensor& whole) const { return whole.slice(0, config_.latent.kv_rank); }
Tensor LatentAttention::key_rows(const Tensor& whole) const {
  return whole.slice(config_.latent.kv_rank, config_.latent.kv_rank + heads_.rope);
}

Tensor LatentAttention::forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed,
                                const Tensor& residual, Stash& stash) {
  const int64_t num_tokens = microbatch.num_tokens();
  Tensor q_input = normed;
  if (with_q_latent_) q_input = latent_forward(stream, q_.norm, q_.down.value, normed, kQueryLatent, stash);
  const Tensor q = q_up_.column_forward(stream, tensor_, q_input, num_tokens);
  const Tensor latent = latent_forward(stream, kv_.norm, kv_rows(kv_.down.value), normed, kLatent, stash);
  const Tensor kv = kv_up_.column_forward(stream, tensor_, latent, num_tokens);
  Tensor key = Tensor::empty(stream, {normed.dim(0), heads_.rope}, normed.dtype());
  ops::linear_forward(stream, normed, key_rows(kv_.down.value), Tensor{}, key);
  key = tensor_.gather(stream, key, num_tokens);

  const int64_t width = heads_.num_heads * heads_.width();
  Tensor qkv = Tensor::empty(stream, {num_tokens, 3 * width}, normed.dtype());
  ops::pack_latent_heads(stream, heads_, q, kv, key, microbatch.positions, rotary_table_, qkv);
  Tensor attention = Tensor::empty(stream, {num_tokens, width}, normed.dtype());
  Tensor lse = Tensor::empty(stream, {microbatch.batch, heads_.num_heads, microbatch.sequence}, DType::f32);
  ops::attention_forward(stream, shape(microbatch), qkv, microbatch.document_start, attention, lse);
  stash.put(kQkv, qkv);
  stash.put(kAttention, attention);
  stash.put(kLse, lse);
  return out_.row_forward(stream, tensor_, values_of(stream, attention), residual);
}

// Attention's output without what fills its heads up.
Tensor LatentAttention::values_of(Stream& stream, const Tensor& attention) const {
  if (heads_.v == heads_.width()) return attention;
  Tensor values = Tensor::empty(stream, {attention.dim(0), heads_.num_heads * heads_.v}, attention.dtype());
  ops::resize_heads(stream, attention, heads_.num_heads, values);
  return values;
}

void LatentAttention::drop_recomputable(Stash& stash) {
  stash.drop(kQueryNormed);
  stash.drop(kLatentNormed);
}

void LatentAttention::recompute(Stream& stream, const Microbatch&, Stash& stash) {
  const auto again = [&](const NormLayer& norm, int first_slot) {
    ops::NormStats stats{Tensor{}, stash.get(first_slot + 1)};
    stash.put(first_slot + 2, norm.forward(stream, stash.get(first_slot), stats));
  };
  if (with_q_latent_) again(q_.norm, kQueryLatent);
  again(kv_.norm, kLatent);
}

Tensor LatentAttention::latent_backward(Stream& stream, const NormLayer& norm, const Tensor& dnormed, int first_slot,
                                        int gradient_slot, Stash& stash) const {
  Tensor draw;
  stash.put(gradient_slot + 1, norm.backward_input(stream, dnormed, stash.take(first_slot),
                                                   {Tensor{}, stash.take(first_slot + 1)}, /*residual=*/{}, draw));
  stash.put(gradient_slot, draw);
  return draw;
}

Tensor LatentAttention::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) {
  const int64_t num_tokens = microbatch.num_tokens();
  Tensor whole_dy;
  Tensor dattention = out_.row_backward_input(stream, tensor_, dy, num_tokens, whole_dy);
  stash.put(kGradOutput, whole_dy);
  if (heads_.v != heads_.width()) {
    const Tensor values = dattention;
    dattention = Tensor::empty(stream, {num_tokens, heads_.num_heads * heads_.width()}, dy.dtype());
    ops::resize_heads(stream, values, heads_.num_heads, dattention);
  }
  const Tensor qkv = stash.take(kQkv);
  Tensor dqkv = Tensor::empty(stream, qkv.shape(), qkv.dtype());
  ops::attention_backward(stream, shape(microbatch), qkv, microbatch.document_start, stash.get(kAttention),
                          stash.take(kLse), dattention, dqkv);
  Tensor dq = Tensor::empty(stream, {num_tokens, heads_.num_heads * heads_.qk()}, dy.dtype());
  Tensor dkv = Tensor::empty(stream, {num_tokens, heads_.num_heads * (heads_.nope + heads_.v)}, dy.dtype());
  Tensor dkey = Tensor::empty(stream, {num_tokens, heads_.rope}, dy.dtype());
  ops::unpack_latent_heads(stream, heads_, dqkv, microbatch.positions, rotary_table_, dq, dkv, dkey);
  stash.put(kGradQueries, dq);
  stash.put(kGradKeysValues, dkv);
  if (tensor_.size() > 1) dkey = tensor_.reduce(stream, dkey);  // each rank has its heads' share
  stash.put(kGradSharedKey, dkey);

  // Through the latents, and the sum of what comes back to x.
  const Tensor dlatent = latent_backward(stream, kv_.norm, kv_up_.column_backward_input(stream, tensor_, dkv), kLatent,
                                         kGradLatent, stash);
  Tensor dx = q_up_.column_backward_input(stream, tensor_, dq);
  if (with_q_latent_) {
    const Tensor dq_latent = latent_backward(stream, q_.norm, dx, kQueryLatent, kGradQueryLatent, stash);
    dx = Tensor::empty(stream, {dlatent.dim(0), config_.hidden_size}, dy.dtype());
    ops::linear_backward_input(stream, dq_latent, q_.down.value, dx, /*accumulate=*/false);
  }
  ops::linear_backward_input(stream, dlatent, kv_rows(kv_.down.value), dx, /*accumulate=*/true);
  ops::linear_backward_input(stream, dkey, key_rows(kv_.down.value), dx, /*accumulate=*/true);
  return dx;
}

void LatentAttention::backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) {
  const int64_t num_tokens = microbatch.num_tokens();
  Tensor no_bias;
  out_.backward_weight(stream, stash.take(kGradOutput), values_of(stream, stash.take(kAttention)));
  const Tensor dq = stash.take(kGradQueries);
  if (with_q_latent_) {
    q_up_.backward_weight(stream, dq, tensor_.gather(stream, stash.take(kQueryNormed), num_tokens));
    q_.norm.backward_weight(stream, stash.take(kGradQueryNorm));
    ops::linear_backward_weight(stream, stash.take(kGradQueryLatent), normed, q_.down.gradient, no_bias,
                                q_.down.accumulate_gradient());
  } else {
    q_up_.backward_weight(stream, dq, tensor_.gather(stream, normed, num_tokens));
  }
  kv_up_.backward_weight(stream, stash.take(kGradKeysValues),
                         tensor_.gather(stream, stash.take(kLatentNormed), num_tokens));
  kv_.norm.backward_weight(stream, stash.take(kGradLatentNorm));
  const bool accumulate = kv_.down.accumulate_gradient();
  Tensor dkv_rows = kv_rows(kv_.down.gradient);
  Tensor dkey_rows = key_rows(kv_.down.gradient);
  ops::linear_backward_weight(stream, stash.take(kGradLatent), normed, dkv_rows, no_bias, accumulate);
  ops::linear_backward_weight(stream, stash.take(kGradSharedKey), normed, dkey_rows, no_bias, accumulate);
}

}  // namespace trireme
