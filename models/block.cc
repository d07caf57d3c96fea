#include "models/block.h"

#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/rotary.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

// What a block keeps for backward. N tokens, n of them on this rank between the blocks (TensorGroup); H, KV and F are
// this rank's.
enum Slot : int {
  kInput,  // x [n, C]
  kMean1,  // statistics of norm1 [n]; means only with layer norm
  kRstd1,
  kNormed1,     // [n, C], recomputable
  kRawQkv,      // W_qkv's output before qk_norm, Qwen3 only
  kQkNormRstd,  // [N, H + KV], Qwen3 only
  kQkv,         // what attention reads [N, (H + 2·KV)·D]; recomputable with qk_norm
  kAttention,   // [N, H·D]
  kLse,         // [B, H, T]
  kHidden,      // h [n, C]
  kMean2,
  kRstd2,
  kNormed2,        // [n, C], recomputable
  kUp,             // [N, 2F] or [N, F]
  kActivated,      // [N, F], recomputable
  kKeptActivated,  // or this, where recomputing would give other bits (linear_gelu_forward)
  // Between the two halves of backward:
  kGradOutput,  // dy [N, C]
  kGradUp,
  kGradHidden,  // gradient of h [N, C]
  kGradQkv,
  kGradNorm1,  // weight gradients that backward_input made
  kGradNorm2,
  kGradQNorm,
  kGradKNorm,
};

void put_stats(Stash& stash, const ops::NormStats& stats, int mean_slot, int rstd_slot) {
  if (stats.mean.defined()) stash.put(mean_slot, stats.mean);
  stash.put(rstd_slot, stats.rstd);
}

ops::NormStats get_stats(const Stash& stash, int mean_slot, int rstd_slot) {
  return {stash.has(mean_slot) ? stash.get(mean_slot) : Tensor{}, stash.get(rstd_slot)};
}

}  // namespace

TransformerBlock::TransformerBlock(const ModelConfig& config, int64_t layer, Tensor rotary_table,
                                   const TensorGroup& tensor)
    : config_(config),
      tensor_(tensor),
      num_heads_(config.num_heads / tensor.size()),
      num_kv_heads_(config.num_kv_heads / tensor.size()),
      name_("layer " + std::to_string(layer)),
      rotary_table_(std::move(rotary_table)) {
  const ParameterNames names(config.family, layer);
  const int64_t hidden = config.hidden_size;
  const int64_t q_rows = config.num_heads * config.head_dim;
  const int64_t kv_rows = config.num_kv_heads * config.head_dim;
  const bool gpt2 = config.family == ModelFamily::gpt2;
  const double std = config.initializer_range;
  // GPT-2 divides the initial weights that feed the residual stream by the square root of the number of such layers.
  const double residual_std = gpt2 ? std / std::sqrt(2.0 * static_cast<double>(config.num_layers)) : std;

  const auto column = [](Parameter p) { return column_parallel(std::move(p)); };
  const auto column_of_ffn = [](Parameter p) { return column_parallel(std::move(p), kTensorGranule); };
  norm1_ = make_norm(names.norm1, hidden, config, tensor.sequence());
  norm2_ = make_norm(names.norm2, hidden, config, tensor.sequence());
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
  attention_out_.weight = Weight(row_parallel(make_matrix(names.o, hidden, q_rows, residual_std)));
  if (gpt2) {
    up_.weight = Weight(column_of_ffn(make_matrix(names.up, config.ffn_size, hidden, std)));
    up_.bias = Weight(column_of_ffn(make_bias(names.up, config.ffn_size)));
    attention_out_.bias = Weight(make_bias(names.o, hidden));
  } else {
    up_.weight = Weight(column_of_ffn(make_matrix(names.gate, config.ffn_size, hidden, std)));
    up_.weight.parts.push_back(column_of_ffn(make_matrix(names.up, config.ffn_size, hidden, std)));
  }
  down_.weight = Weight(row_parallel(make_matrix(names.down, hidden, config.ffn_size, residual_std), kTensorGranule));
  if (gpt2) down_.bias = Weight(make_bias(names.down, hidden));
}

std::vector<Weight*> TransformerBlock::weights() {
  std::vector<Weight*> list;
  norm1_.list_weights(list);
  qkv_.list_weights(list);
  if (q_norm_) list.push_back(&q_norm_);
  if (k_norm_) list.push_back(&k_norm_);
  attention_out_.list_weights(list);
  norm2_.list_weights(list);
  up_.list_weights(list);
  down_.list_weights(list);
  return list;
}

ops::AttentionShape TransformerBlock::attention_shape(const Microbatch& microbatch) const {
  return {microbatch.batch, microbatch.sequence, num_heads_,
          num_kv_heads_,    config_.head_dim,    1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
}

// Norm (Qwen3) and rotation of the query and key heads. `qkv` is changed in place unless it is kept raw.
Tensor TransformerBlock::queries_and_keys(Stream& stream, const Microbatch& microbatch, Tensor qkv,
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

ops::Gelu TransformerBlock::gelu() const {
  return config_.activation == Activation::gelu_tanh ? ops::Gelu::tanh : ops::Gelu::erf;
}

// act(up), again.
Tensor TransformerBlock::activate(Stream& stream, const Tensor& up) const {
  const bool gated = config_.activation == Activation::swiglu;
  Tensor y = Tensor::empty(stream, {up.dim(0), gated ? up.dim(1) / 2 : up.dim(1)}, up.dtype());
  if (gated) {
    ops::swiglu_forward(stream, up, y);
  } else {
    ops::gelu_forward(stream, up, gelu(), y);
  }
  return y;
}

// act(W_up · normed), of all tokens.
Tensor TransformerBlock::up_and_activate(Stream& stream, const Tensor& normed, int64_t num_tokens, Stash& stash) const {
  if (config_.activation == Activation::swiglu) {
    const Tensor up = up_.column_forward(stream, tensor_, normed, num_tokens);
    const Tensor activated = activate(stream, up);
    stash.put(kUp, up);
    stash.put(kActivated, activated);
    return activated;
  }
  Tensor up = Tensor::empty(stream, {num_tokens, up_.out()}, normed.dtype());
  Tensor activated = Tensor::empty(stream, up.shape(), up.dtype());
  bool keep = false;
  tensor_.gather(stream, normed, num_tokens, [&](int64_t begin, int64_t end, Tensor& rows) {
    Tensor up_rows = up.slice(begin, end);
    Tensor activated_rows = activated.slice(begin, end);
    keep |= ops::linear_gelu_forward(stream, rows, up_.weight.value, up_.bias.value, gelu(), up_rows, activated_rows);
  });
  stash.put(kUp, up);
  stash.put(keep ? kKeptActivated : kActivated, activated);
  return activated;
}

// The gradient of `up` from that of the block's output; all rows of the latter become `whole_dy`.
Tensor TransformerBlock::down_and_activate_backward(Stream& stream, const Tensor& dy, const Tensor& up,
                                                    Tensor& whole_dy) const {
  Tensor dup = Tensor::empty(stream, up.shape(), up.dtype());
  if (config_.activation == Activation::swiglu) {
    const Tensor dactivated = down_.row_backward_input(stream, tensor_, dy, up.dim(0), whole_dy);
    ops::swiglu_backward(stream, dactivated, up, dup);
    return dup;
  }
  whole_dy = tensor_.gather(stream, dy, up.dim(0), [&](int64_t begin, int64_t end, Tensor& rows) {
    Tensor dup_rows = dup.slice(begin, end);
    ops::linear_gelu_backward_input(stream, rows, down_.weight.value, up.slice(begin, end), gelu(), dup_rows);
  });
  return dup;
}

Tensor TransformerBlock::forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) {
  stash.put(kInput, x);
  ops::NormStats stats1;
  const Tensor normed1 = norm1_.forward(stream, x, stats1);
  put_stats(stash, stats1, kMean1, kRstd1);
  stash.put(kNormed1, normed1);

  const int64_t num_tokens = microbatch.num_tokens();
  const Tensor raw_qkv = qkv_.column_forward(stream, tensor_, normed1, num_tokens);
  const Tensor qkv = queries_and_keys(stream, microbatch, raw_qkv, stash);
  Tensor attention = Tensor::empty(stream, {num_tokens, num_heads_ * config_.head_dim}, x.dtype());
  Tensor lse = Tensor::empty(stream, {microbatch.batch, num_heads_, microbatch.sequence}, DType::f32);
  ops::attention_forward(stream, attention_shape(microbatch), qkv, microbatch.document_start, attention, lse);
  stash.put(kAttention, attention);
  stash.put(kLse, lse);

  Tensor hidden = attention_out_.row_forward(stream, tensor_, attention);
  ops::NormStats stats2;
  const Tensor normed2 = norm2_.add_forward(stream, hidden, x, stats2);
  stash.put(kHidden, hidden);
  put_stats(stash, stats2, kMean2, kRstd2);
  stash.put(kNormed2, normed2);

  Tensor y = down_.row_forward(stream, tensor_, up_and_activate(stream, normed2, num_tokens, stash));
  ops::add(stream, y, hidden, y);
  return y;
}

void TransformerBlock::drop_recomputable(Stash& stash) {
  stash.drop(kNormed1);
  stash.drop(kNormed2);
  if (!stash.has(kKeptActivated)) stash.drop(kActivated);
  if (config_.qk_norm) stash.drop(kQkv);
}

void TransformerBlock::recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  ops::NormStats stats1 = get_stats(stash, kMean1, kRstd1);
  stash.put(kNormed1, norm1_.forward(stream, stash.get(kInput), stats1));
  ops::NormStats stats2 = get_stats(stash, kMean2, kRstd2);
  stash.put(kNormed2, norm2_.forward(stream, stash.get(kHidden), stats2));
  if (!stash.has(kKeptActivated)) stash.put(kActivated, activate(stream, stash.get(kUp)));
  if (config_.qk_norm) queries_and_keys(stream, microbatch, stash.get(kRawQkv), stash);
}

Tensor TransformerBlock::backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) {
  // Feed-forward: y = h + down(act(up(norm2(h))))
  const int64_t num_tokens = microbatch.num_tokens();
  Tensor whole_dy;
  const Tensor dup = down_and_activate_backward(stream, dy, stash.take(kUp), whole_dy);
  stash.put(kGradOutput, whole_dy);
  stash.put(kGradUp, dup);
  const Tensor dnormed2 = up_.column_backward_input(stream, tensor_, dup);
  Tensor dhidden;
  stash.put(kGradNorm2, norm2_.backward_input(stream, dnormed2, stash.take(kHidden), get_stats(stash, kMean2, kRstd2),
                                              dy, dhidden));

  // Attention: h = x + out(attention(qkv(norm1(x))))
  Tensor whole_dhidden;
  const Tensor dattention = attention_out_.row_backward_input(stream, tensor_, dhidden, num_tokens, whole_dhidden);
  stash.put(kGradHidden, whole_dhidden);
  const Tensor qkv = stash.take(kQkv);
  Tensor dqkv = Tensor::empty(stream, qkv.shape(), qkv.dtype());
  ops::attention_backward(stream, attention_shape(microbatch), qkv, microbatch.document_start, stash.get(kAttention),
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
  const Tensor dnormed1 = qkv_.column_backward_input(stream, tensor_, dqkv);
  Tensor dx;
  stash.put(kGradNorm1,
            norm1_.backward_input(stream, dnormed1, stash.take(kInput), get_stats(stash, kMean1, kRstd1), dhidden, dx));
  return dx;
}

// Of the normed inputs only this rank's rows were kept; the others come again.
void TransformerBlock::backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  const int64_t num_tokens = microbatch.num_tokens();
  down_.backward_weight(stream, stash.take(kGradOutput),
                        stash.take(stash.has(kKeptActivated) ? kKeptActivated : kActivated));
  up_.backward_weight(stream, stash.take(kGradUp), tensor_.gather(stream, stash.take(kNormed2), num_tokens));
  norm2_.backward_weight(stream, stash.take(kGradNorm2));
  attention_out_.backward_weight(stream, stash.take(kGradHidden), stash.take(kAttention));
  qkv_.backward_weight(stream, stash.take(kGradQkv), tensor_.gather(stream, stash.take(kNormed1), num_tokens));
  if (config_.qk_norm) {
    add_gradient(stream, stash.take(kGradQNorm), q_norm_);
    add_gradient(stream, stash.take(kGradKNorm), k_norm_);
  }
  norm1_.backward_weight(stream, stash.take(kGradNorm1));
  stash.clear();
}

}  // namespace trireme
