#include "models/moe/experts.h"

#include "core/ops/expert_rows.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

// R rows; F is this rank's.
enum Slot : int {
  kInput,      // x [R, C]
  kWeights,    // f32 [R, 1]
  kUp,         // [R, 2F]
  kActivated,  // [R, F], recomputable
  // Between the two halves of backward:
  kGradOutput,
  kGradUp,
};

}  // namespace

Experts::Experts(const ModelConfig& config, const Names& names, const MoeSetup& setup) {
  const ExpertsConfig& experts = config.experts;
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = experts.ffn_size;
  const double std = config.initializer_range;
  const int64_t num_local = experts.num_experts / setup.expert_degree;
  const int64_t first = num_local * setup.expert_coordinate;
  for (int64_t e = first; e < first + num_local; ++e) {
    const MlpNames of_expert = names(e);
    up_.parts.push_back(expert_parameter(make_matrix(of_expert.gate, ffn, hidden, std), /*dim=*/0, kTensorGranule));
    up_.parts.push_back(expert_parameter(make_matrix(of_expert.up, ffn, hidden, std), 0, kTensorGranule));
    down_.parts.push_back(
        expert_parameter(make_matrix(of_expert.down, hidden, ffn, residual_std(config)), 1, kTensorGranule));
  }
}

void Experts::list_weights(std::vector<Weight*>& list) {
  list.push_back(&up_);
  list.push_back(&down_);
}

Tensor Experts::activate(Stream& stream, const Tensor& up, const Tensor& weights) const {
  Tensor activated = Tensor::empty(stream, {up.dim(0), up.dim(1) / 2}, up.dtype());
  ops::weighted_swiglu_forward(stream, up, weights.view({up.dim(0)}), activated);
  return activated;
}

Tensor Experts::forward(Stream& stream, const Tensor& x, const Tensor& weights, ops::RowOffsets offsets,
                        Stash& stash) const {
  const int64_t num_local = std::ssize(offsets) - 1;
  Tensor up = Tensor::empty(stream, {x.dim(0), up_.value.dim(0) / num_local}, x.dtype());
  ops::grouped_linear_forward(stream, x, up_.value, offsets, up);
  const Tensor activated = activate(stream, up, weights);
  Tensor y = Tensor::empty(stream, x.shape(), x.dtype());
  ops::grouped_linear_forward(stream, activated, down_.value, offsets, y);
  stash.put(kInput, x);
  stash.put(kWeights, weights);
  stash.put(kUp, up);
  stash.put(kActivated, activated);
  return y;
}

void Experts::drop_recomputable(Stash& stash) const { stash.drop(kActivated); }

void Experts::recompute(Stream& stream, Stash& stash) const {
  stash.put(kActivated, activate(stream, stash.get(kUp), stash.get(kWeights)));
}

Tensor Experts::backward_input(Stream& stream, const Tensor& dy, ops::RowOffsets offsets, Tensor& dweights,
                               Stash& stash) const {
  const Tensor up = stash.take(kUp);
  Tensor dactivated = Tensor::empty(stream, {dy.dim(0), down_.value.dim(1)}, dy.dtype());
  ops::grouped_linear_backward_input(stream, dy, down_.value, offsets, dactivated);
  Tensor dup = Tensor::empty(stream, up.shape(), up.dtype());
  dweights = Tensor::empty(stream, {dy.dim(0), 1}, DType::f32);
  Tensor flat = dweights.view({dy.dim(0)});
  ops::weighted_swiglu_backward(stream, dactivated, up, stash.take(kWeights).view({dy.dim(0)}), dup, flat);
  Tensor dx = Tensor::empty(stream, dy.shape(), dy.dtype());
  ops::grouped_linear_backward_input(stream, dup, up_.value, offsets, dx);
  stash.put(kGradOutput, dy);
  stash.put(kGradUp, dup);
  return dx;
}

bool Experts::accumulate_gradients() {
  const bool accumulate = up_.accumulate_gradient();
  TRIREME_CHECK(down_.accumulate_gradient() == accumulate);
  return accumulate;
}

void Experts::backward_weight(Stream& stream, ops::RowOffsets offsets, Stash& stash, bool accumulate) {
  ops::grouped_linear_backward_weight(stream, stash.take(kGradOutput), stash.take(kActivated), offsets, down_.gradient,
                                      accumulate);
  ops::grouped_linear_backward_weight(stream, stash.take(kGradUp), stash.take(kInput), offsets, up_.gradient,
                                      accumulate);
}

}  // namespace trireme
