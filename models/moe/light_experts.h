// The experts that compute next to nothing (Jin et al. 2024, "MoE++"), choices of the router behind the E real ones, in this
// order:
//
//   zero       E(x) = 0
//   copy       E(x) = x
//   constant   E(x) = a·x + b·v, (a, b) = softmax(W·x)
//
// Their rows stay with the rank that routes them: no dispatch, however experts are shared out. Weights are fp32, whatever the
// model computes in, and their gradients partial over the tensor group, whose ranks route a share of the tokens each.
// A zero expert's weight takes part in the normalization of a token's weights, and that is all it does.
// The stash holds x, also where outputs of norms are computed again.
#pragma once

#include "core/ops/light_experts.h"
#include "models/moe/setup.h"
#include "models/parameter_names.h"
#include "parallel/stash.h"

namespace trireme {

class LightExperts {
 public:
  LightExperts(const ModelConfig& config, const ParameterNames& names);

  // Whether any of them does anything; if not, nothing below may be called but list_weights.
  explicit operator bool() const { return choices_.num_copy + choices_.num_constant > 0; }
  void list_weights(std::vector<Weight*>& list);

  // y += what the tokens get from them. x, y [n, C]; experts i32 [n, K], weights f32 [n, K].
  void forward(Stream& stream, const Tensor& x, const Tensor& experts, const Tensor& weights, Tensor& y,
               Stash& stash) const;
  // dx += the gradient through them; dweights f32 [n, K] where a slot has one of them is written, else left alone.
  void backward_input(Stream& stream, const Tensor& dy, Tensor& dx, Tensor& dweights, Stash& stash) const;
  void backward_weight(Stream& stream, const Tensor& x, Stash& stash);

 private:
  ops::LightChoices choices_;
  Weight vectors_;  // f32 [J·C]
  Weight mix_;      // f32 [2J, C]
  int64_t width_;   // C
};

}  // namespace trireme
