// The dense feed-forward half: y = W_down · act(W_up · x), act = SwiGLU (gate and up), or GELU with biases (GPT-2).
#pragma once

#include "core/config/config.h"
#include "core/ops/activation.h"
#include "models/block_half.h"
#include "models/layers.h"
#include "models/parameter_names.h"
#include "parallel/tensor_group.h"

namespace trireme {

class Mlp final : public BlockHalf {
 public:
  // Each rank of `tensor` has its share of the width F = `ffn_size`, padded to multiples of 8.
  Mlp(const ModelConfig& config, const MlpNames& names, int64_t ffn_size, const TensorGroup& tensor);

  void list_weights(std::vector<Weight*>& list) override;
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                 Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) override;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  ops::Gelu gelu() const;
  Tensor activate(Stream& stream, const Tensor& up) const;
  Tensor up_and_activate(Stream& stream, const Tensor& normed, int64_t num_tokens, Stash& stash) const;
  Tensor down_and_activate_backward(Stream& stream, const Tensor& dy, const Tensor& up, Tensor& whole_dy) const;

  Activation activation_;
  TensorGroup tensor_;
  LinearLayer up_;    // [2F, C]: gate, up; GPT-2: [F, C]
  LinearLayer down_;  // [C, F]
};

}  // namespace trireme
