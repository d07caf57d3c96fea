#include "models/mlp.h"

#include "core/ops/linear.h"

namespace trireme {

namespace {

// N tokens; F is this rank's.
enum Slot : int {
  kUp,             // [N, 2F] or [N, F]
  kActivated,      // [N, F], recomputable
  kKeptActivated,  // or this, where recomputing would give other bits (linear_gelu_forward)
  // Between the two halves of backward:
  kGradOutput,  // dy [N, C]
  kGradUp,
};

}  // namespace

Mlp::Mlp(const ModelConfig& config, const MlpNames& names, int64_t ffn_size, const TensorGroup& tensor)
    : activation_(config.activation), tensor_(tensor) {
  const int64_t hidden = config.hidden_size;
  const double std = config.initializer_range;
  const auto column = [](Parameter p) { return column_parallel(std::move(p), kTensorGranule); };
  if (activation_ == Activation::swiglu) {
    up_.weight = Weight(column(make_matrix(names.gate, ffn_size, hidden, std)));
    up_.weight.parts.push_back(column(make_matrix(names.up, ffn_size, hidden, std)));
  } else {
    up_.weight = Weight(column(make_matrix(names.up, ffn_size, hidden, std)));
    up_.bias = Weight(column(make_bias(names.up, ffn_size)));
    down_.bias = Weight(make_bias(names.down, hidden));
  }
  down_.weight = Weight(row_parallel(make_matrix(names.down, hidden, ffn_size, residual_std(config)), kTensorGranule));
}

void Mlp::list_weights(std::vector<Weight*>& list) {
  up_.list_weights(list);
  down_.list_weights(list);
}

ops::Gelu Mlp::gelu() const { return activation_ == Activation::gelu_tanh ? ops::Gelu::tanh : ops::Gelu::erf; }

// act(up), again.
Tensor Mlp::activate(Stream& stream, const Tensor& up) const {
  const bool gated = activation_ == Activation::swiglu;
  Tensor y = Tensor::empty(stream, {up.dim(0), gated ? up.dim(1) / 2 : up.dim(1)}, up.dtype());
  if (gated) {
    ops::swiglu_forward(stream, up, y);
  } else {
    ops::gelu_forward(stream, up, gelu(), y);
  }
  return y;
}

// act(W_up · normed), of all tokens.
Tensor Mlp::up_and_activate(Stream& stream, const Tensor& normed, int64_t num_tokens, Stash& stash) const {
  if (activation_ == Activation::swiglu) {
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
Tensor Mlp::down_and_activate_backward(Stream& stream, const Tensor& dy, const Tensor& up, Tensor& whole_dy) const {
  Tensor dup = Tensor::empty(stream, up.shape(), up.dtype());
  if (activation_ == Activation::swiglu) {
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

Tensor Mlp::forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                    Stash& stash) {
  const Tensor activated = up_and_activate(stream, normed, microbatch.num_tokens(), stash);
  return down_.row_forward(stream, tensor_, activated, residual);
}

void Mlp::drop_recomputable(Stash& stash) {
  if (!stash.has(kKeptActivated)) stash.drop(kActivated);
}

void Mlp::recompute(Stream& stream, const Microbatch&, Stash& stash) {
  if (!stash.has(kKeptActivated)) stash.put(kActivated, activate(stream, stash.get(kUp)));
}

Tensor Mlp::backward_input(Stream& stream, const Microbatch&, const Tensor& dy, Stash& stash) {
  Tensor whole_dy;
  const Tensor dup = down_and_activate_backward(stream, dy, stash.take(kUp), whole_dy);
  stash.put(kGradOutput, whole_dy);
  stash.put(kGradUp, dup);
  return up_.column_backward_input(stream, tensor_, dup);
}

// Of the normed inputs only this rank's rows were kept; the others come again.
void Mlp::backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) {
  down_.backward_weight(stream, stash.take(kGradOutput),
                        stash.take(stash.has(kKeptActivated) ? kKeptActivated : kActivated));
  up_.backward_weight(stream, stash.take(kGradUp), tensor_.gather(stream, normed, microbatch.num_tokens()));
}

}  // namespace trireme
