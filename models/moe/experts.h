// The experts of one layer on this rank: SwiGLU networks, each with its own rows.
//
//   y = W_down,e · (w · silu(W_gate,e · x) · (W_up,e · x))     for each row x of expert e with the routing weight w
//
// The weight is multiplied in before the last product, which is the same and leaves less to keep. With expert_tensor each
// rank has a share of the width F, and y is a summand.
#pragma once

#include <functional>

#include "core/ops/grouped_linear.h"
#include "models/moe/setup.h"
#include "models/parameter_names.h"
#include "parallel/stash.h"

namespace trireme {

class Experts {
 public:
  // Names of the matrices of one expert, by its number in the layer.
  using Names = std::function<MlpNames(int64_t expert)>;
  Experts(const ModelConfig& config, const Names& names, const MoeSetup& setup);

  void list_weights(std::vector<Weight*>& list);

  // x [R, C] sorted by expert, weights f32 [R, 1] -> [R, C].
  Tensor forward(Stream& stream, const Tensor& x, const Tensor& weights, ops::RowOffsets offsets, Stash& stash) const;
  // dy [R, C] -> the gradient of x; and that of the weights.
  Tensor backward_input(Stream& stream, const Tensor& dy, ops::RowOffsets offsets, Tensor& dweights,
                        Stash& stash) const;
  void backward_weight(Stream& stream, ops::RowOffsets offsets, Stash& stash, bool accumulate);

  void drop_recomputable(Stash& stash) const;
  void recompute(Stream& stream, Stash& stash) const;

  // Call once for each microbatch, before its first backward_weight: whether that one must add.
  bool accumulate_gradients();

 private:
  Tensor activate(Stream& stream, const Tensor& up, const Tensor& weights) const;

  Weight up_;    // [experts here · 2F, C]: gate and up of one expert, of the next
  Weight down_;  // [experts here · C, F]
};

}  // namespace trireme
