// Experts that compute next to nothing (Jin et al. 2024, "MoE++"), on the rows of the rank that routes them:
//
//   copy expert         E(x) = x
//   constant expert j   E(x) = a·x + b·v_j, (a, b) = softmax(W_j·x)
//
// n tokens with K slots each; `experts` i32 [n, K] names each slot's choice, `weights` f32 [n, K] its weight w. What tokens
// add up is x_factor·x + Σ_j vector_factors[j]·v_j: the ops here make these factors, add such rows, and go back. J constant
// experts; with J = 0 the tensors of them are undefined. n = 0 is allowed. `mixes` f32 [n, 2J]: a_0, b_0, a_1, …
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// Which numbers of choices they have: the copy experts from `first` on, then the constant ones.
struct LightChoices {
  int64_t first = 0;
  int64_t num_copy = 0;
  int64_t num_constant = 0;
};

// x_factor[r] = Σ w over slots with a copy expert + Σ w·a_j over those with constant expert j, f32 [n];
// vector_factors[r, j] = Σ w·b_j over slots with constant expert j, f32 [n, J].
void light_factors(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                   const LightChoices& choices, Tensor& x_factor, Tensor& vector_factors);

// Back to the weights and to the logits W·x of the mixes, by x_dots f32 [n] = dy·x and vector_dots f32 [n, J] = dy·v_j:
// dweights f32 [n, K] is written where a slot has one of these experts and left alone elsewhere; dlogits f32 [n, 2J].
void light_gradients(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                     const Tensor& x_dots, const Tensor& vector_dots, const LightChoices& choices, Tensor& dweights,
                     Tensor& dlogits);

// y[r] += x_factor[r]·x[r] + Σ_m factors[r, m]·table[m], summed in fp32 in this order and rounded once. x, y [n, C] f32 or
// bf16; x_factor f32 [n]; factors f32 [n, M], table f32 [M, C], both undefined: none. A factor 0 reads nothing.
void add_light_rows(Stream& stream, const Tensor& x, const Tensor& x_factor, const Tensor& factors, const Tensor& table,
                    Tensor& y);

}  // namespace trireme::ops
