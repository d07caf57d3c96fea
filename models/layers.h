// The two layers with weights that blocks are made of: linear and norm. Each keeps nothing between calls; what backward
// needs is handed in.
#pragma once

#include <string>
#include <vector>

#include "core/ops/norm.h"
#include "parallel/parameter.h"
#include "parallel/tensor_group.h"

namespace trireme {

// y = x·wᵀ + b, of which a tensor rank has some outputs or some inputs. The weight may join several parameters (q, k, v;
// gate, up). Gathers and sums overlap the products as the group says (parallel/tensor_products.h).
struct LinearLayer {
  Weight weight;  // [out, in]; of this rank
  Weight bias;    // [out], or none

  int64_t out() const { return weight.value.dim(0); }
  int64_t in() const { return weight.value.dim(1); }
  void list_weights(std::vector<Weight*>& list);

  // Column-parallel: `group` has the outputs cut among its ranks. x [rows, in] -> [N, out], and back.
  Tensor column_forward(Stream& stream, const TensorGroup& group, const Tensor& x, int64_t num_tokens) const;
  Tensor column_backward_input(Stream& stream, const TensorGroup& group, const Tensor& dy) const;
  // Row-parallel: the inputs are cut. x [N, in] -> [rows, out], and back; `whole_dy` becomes all rows of dy. `residual`
  // [rows, out], which is added, may be undefined.
  Tensor row_forward(Stream& stream, const TensorGroup& group, const Tensor& x, const Tensor& residual) const;
  Tensor row_backward_input(Stream& stream, const TensorGroup& group, const Tensor& dy, int64_t num_tokens,
                            Tensor& whole_dy) const;
  // dy [N, out], x [N, in]: all rows.
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

// x in `dtype`; x itself where it has that.
Tensor in_dtype(Stream& stream, const Tensor& x, DType dtype);

// Adds (or writes first) a gradient that was made in backward_input.
void add_gradient(Stream& stream, const Tensor& gradient, Weight& weight);

}  // namespace trireme
