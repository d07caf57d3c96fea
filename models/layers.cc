#include "models/layers.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "parallel/tensor_products.h"

namespace trireme {

void LinearLayer::list_weights(std::vector<Weight*>& list) {
  list.push_back(&weight);
  if (bias) list.push_back(&bias);
}

Tensor LinearLayer::column_forward(Stream& stream, const TensorGroup& group, const Tensor& x,
                                   int64_t num_tokens) const {
  return gather_linear(stream, group, x, num_tokens, weight.value, bias.value);
}

Tensor LinearLayer::column_backward_input(Stream& stream, const TensorGroup& group, const Tensor& dy) const {
  return gather_linear_backward(stream, group, dy, weight.value);
}

// Of the summands of a sum only one has the bias in it.
Tensor LinearLayer::row_forward(Stream& stream, const TensorGroup& group, const Tensor& x,
                                const Tensor& residual) const {
  return linear_reduce(stream, group, x, weight.value, group.is_first() ? bias.value : Tensor{}, residual);
}

Tensor LinearLayer::row_backward_input(Stream& stream, const TensorGroup& group, const Tensor& dy, int64_t num_tokens,
                                       Tensor& whole_dy) const {
  return linear_reduce_backward(stream, group, dy, num_tokens, weight.value, whole_dy);
}

void LinearLayer::backward_weight(Stream& stream, const Tensor& dy, const Tensor& x) {
  const bool accumulate = weight.accumulate_gradient();
  if (bias) TRIREME_CHECK(bias.accumulate_gradient() == accumulate);
  ops::linear_backward_weight(stream, dy, x, weight.gradient, bias.gradient, accumulate);
}

void NormLayer::list_weights(std::vector<Weight*>& list) {
  list.push_back(&weight);
  if (bias) list.push_back(&bias);
}

namespace {

ops::NormStats allocate_stats(Stream& stream, int64_t rows, bool with_mean) {
  ops::NormStats stats;
  if (with_mean) stats.mean = Tensor::empty(stream, {rows}, DType::f32);
  stats.rstd = Tensor::empty(stream, {rows}, DType::f32);
  return stats;
}

}  // namespace

Tensor NormLayer::forward(Stream& stream, const Tensor& x, ops::NormStats& stats) const {
  if (!stats.rstd.defined()) stats = allocate_stats(stream, x.dim(0), static_cast<bool>(bias));
  Tensor y = Tensor::empty(stream, x.shape(), x.dtype());
  ops::norm_forward(stream, x, weight.value, bias.value, eps, y, stats);
  return y;
}

Tensor NormLayer::add_forward(Stream& stream, Tensor& a, const Tensor& b, ops::NormStats& stats) const {
  stats = allocate_stats(stream, a.dim(0), static_cast<bool>(bias));
  Tensor y = Tensor::empty(stream, a.shape(), a.dtype());
  ops::add_norm_forward(stream, a, b, weight.value, bias.value, eps, a, y, stats);
  return y;
}

Tensor NormLayer::backward_input(Stream& stream, const Tensor& dy, const Tensor& x, const ops::NormStats& stats,
                                 const Tensor& residual, Tensor& dx) const {
  const int64_t width = x.dim(1);
  Tensor gradients = Tensor::empty(stream, {bias ? 2 : 1, width}, DType::f32);
  Tensor dweight = gradients.flat_slice(0, {width});
  Tensor dbias = bias ? gradients.flat_slice(width, {width}) : Tensor{};
  dx = Tensor::empty(stream, x.shape(), x.dtype());
  ops::norm_backward(stream, dy, x, weight.value, stats, residual, dx, dweight, dbias);
  return gradients;
}

void NormLayer::backward_weight(Stream& stream, const Tensor& gradients) {
  const int64_t width = gradients.dim(1);
  add_gradient(stream, gradients.flat_slice(0, {width}), weight);
  if (bias) add_gradient(stream, gradients.flat_slice(width, {width}), bias);
}

Tensor in_dtype(Stream& stream, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = Tensor::empty(stream, x.shape(), dtype);
  ops::cast(stream, x, y);
  return y;
}

void add_gradient(Stream& stream, const Tensor& gradient, Weight& weight) {
  ops::accumulate(stream, gradient, weight.gradient, weight.accumulate_gradient());
}

}  // namespace trireme
