// The two layers with weights that blocks are made of: linear and norm. Each keeps nothing between calls; what backward
// needs is handed in.
#pragma once

#include <string>
#include <vector>

#include "core/ops/norm.h"
#include "parallel/parameter.h"

namespace trireme {

// y = x·wᵀ + b. The weight may join several parameters (q, k, v; gate, up).
struct LinearLayer {
  Weight weight;  // [out, in]; of this rank
  Weight bias;    // [out], or none
  // A row-parallel layer makes a summand of its output on each tensor rank; only the first one's has the bias in it.
  bool adds_bias = true;

  int64_t out() const { return weight.value.dim(0); }
  int64_t in() const { return weight.value.dim(1); }
  void list_weights(std::vector<Weight*>& list);

  Tensor forward(Stream& stream, const Tensor& x) const;          // x [N, in] -> [N, out]
  Tensor backward_input(Stream& stream, const Tensor& dy) const;  // dy [N, out] -> [N, in]
  void backward_weight(Stream& stream, const Tensor& dy, const Tensor& x);
};

// Layer norm where there is a bias, else RMS norm.
struct NormLayer {
  Weight weight;  // [C]
  Weight bias;    // [C], or none
  float eps = 1e-5f;

  void list_weights(std::vector<Weight*>& list);

  // Allocates `stats` and y.
  Tensor forward(Stream& stream, const Tensor& x, ops::NormStats& stats) const;
  // In place a += b, then y = norm(a).
  Tensor add_forward(Stream& stream, Tensor& a, const Tensor& b, ops::NormStats& stats) const;
  // Allocates dx = residual + the gradient through the norm; `residual` may be undefined. Returns [2, C] f32 (or [1, C]):
  // the gradients of weight and bias, for `backward_weight`.
  Tensor backward_input(Stream& stream, const Tensor& dy, const Tensor& x, const ops::NormStats& stats,
                        const Tensor& residual, Tensor& dx) const;
  void backward_weight(Stream& stream, const Tensor& gradients);
};

// Adds (or writes first) a gradient that was made in backward_input.
void add_gradient(Stream& stream, const Tensor& gradient, Weight& weight);

}  // namespace trireme
