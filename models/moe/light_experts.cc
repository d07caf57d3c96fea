#include "models/moe/light_experts.h"

#include "core/ops/elementwise.h"
#include "core/ops/expert_rows.h"
#include "core/ops/linear.h"
#include "core/ops/router.h"
#include "models/layers.h"

namespace trireme {

namespace {

// n rows, J constant experts; those of the latter are there with J > 0.
enum Slot : int {
  kInput,          // x [n, C]
  kExperts,        // i32 [n, K]
  kWeights,        // f32 [n, K]
  kXFactor,        // f32 [n]
  kMixes,          // f32 [n, 2J]
  kVectorFactors,  // f32 [n, J]
  // Between the two halves of backward:
  kGradLogits,
  kGradVectors,  // made in the first: f32 [J, C]
};

Parameter placed(Parameter parameter) {
  parameter.full_precision = true;
  return partial_over_tensor(std::move(parameter));
}

}  // namespace

LightExperts::LightExperts(const ModelConfig& config, const ParameterNames& names)
    : choices_{config.experts.num_experts + config.experts.num_zero, config.experts.num_copy,
               config.experts.num_constant},
      width_(config.hidden_size) {
  for (int64_t j = 0; j < choices_.num_constant; ++j) {
    const ConstantExpertNames of_expert = names.constant_expert(j);
    vectors_.parts.push_back(placed(make_vector(of_expert.vector, width_, config.initializer_range)));
    mix_.parts.push_back(placed(make_matrix(of_expert.mix, 2, width_, config.initializer_range)));
  }
}

void LightExperts::list_weights(std::vector<Weight*>& list) {
  if (choices_.num_constant == 0) return;
  list.push_back(&vectors_);
  list.push_back(&mix_);
}

void LightExperts::forward(Stream& stream, const Tensor& x, const Tensor& experts, const Tensor& weights, Tensor& y,
                           Stash& stash) const {
  const int64_t n = x.dim(0);
  const int64_t num = choices_.num_constant;
  Tensor x_factor = Tensor::empty(stream, {n}, DType::f32);
  Tensor mixes, vector_factors, table;
  if (num > 0) {
    Tensor logits = Tensor::empty(stream, {n, 2 * num}, DType::f32);
    ops::linear_forward(stream, in_dtype(stream, x, DType::f32), mix_.value, Tensor{}, logits);
    mixes = Tensor::empty(stream, logits.shape(), DType::f32);
    Tensor pairs = mixes.view({n * num, 2});
    ops::router_scores(stream, logits.view(pairs.shape()), ops::Scoring::softmax, pairs);
    vector_factors = Tensor::empty(stream, {n, num}, DType::f32);
    table = vectors_.value.view({num, width_});
    stash.put(kMixes, mixes);
    stash.put(kVectorFactors, vector_factors);
  }
  ops::light_factors(stream, experts, weights, mixes, choices_, x_factor, vector_factors);
  ops::add_light_rows(stream, x, x_factor, vector_factors, table, y);
  stash.put(kInput, x);
  stash.put(kExperts, experts);
  stash.put(kWeights, weights);
  stash.put(kXFactor, x_factor);
}

void LightExperts::backward_input(Stream& stream, const Tensor& dy, Tensor& dx, Tensor& dweights, Stash& stash) const {
  const int64_t n = dy.dim(0);
  const int64_t num = choices_.num_constant;
  Tensor x_dots = Tensor::empty(stream, {n}, DType::f32);
  ops::row_dots(stream, dy, stash.take(kInput), x_dots);
  Tensor mixes, vector_dots, dlogits;
  if (num > 0) {
    mixes = stash.take(kMixes);
    const Tensor wide = in_dtype(stream, dy, DType::f32);
    vector_dots = Tensor::empty(stream, {n, num}, DType::f32);
    ops::linear_forward(stream, wide, vectors_.value.view({num, width_}), Tensor{}, vector_dots);
    dlogits = Tensor::empty(stream, mixes.shape(), DType::f32);
    Tensor dvectors = Tensor::empty(stream, {num, width_}, DType::f32);
    Tensor no_bias;
    ops::linear_backward_weight(stream, stash.take(kVectorFactors), wide, dvectors, no_bias, /*accumulate=*/false);
    stash.put(kGradVectors, dvectors);
    stash.put(kGradLogits, dlogits);
  }
  ops::light_gradients(stream, stash.take(kExperts), stash.take(kWeights), mixes, x_dots, vector_dots, choices_,
                       dweights, dlogits);
  ops::add_light_rows(stream, dy, stash.take(kXFactor), dlogits, num > 0 ? mix_.value : Tensor{}, dx);
}

void LightExperts::backward_weight(Stream& stream, const Tensor& x, Stash& stash) {
  if (choices_.num_constant == 0) return;
  add_gradient(stream, stash.take(kGradVectors).view({choices_.num_constant * width_}), vectors_);
  Tensor no_bias;
  ops::linear_backward_weight(stream, stash.take(kGradLogits), in_dtype(stream, x, DType::f32), mix_.gradient, no_bias,
                              mix_.accumulate_gradient());
}

}  // namespace trireme
