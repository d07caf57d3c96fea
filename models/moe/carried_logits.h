// Gating residuals (Jin et al. 2024, "MoE++", eq. 6): the router of a layer sees the logits of the router before,
//
//   logits_j = W_j·x + W^g_j·logits_{j-1}
//
// which may be layers, ranks and a recomputation away. Units hand on nothing but hidden states, so the logits travel as
// further columns of these, from the first layer with experts to the last one: [n, C] of the compute dtype, then E fp32
// numbers, as they are, in the room of E or 2E columns. Gradients of hidden states carry those of the logits likewise.
//
// Where hidden states are whole on every tensor rank, each rank's columns hold the logits of the tokens that it routes,
// and zeros: it needs no others.
#pragma once

#include "core/config/config.h"
#include "core/tensor/tensor.h"

namespace trireme {

// Whether the hidden states that enter this layer carry logits. Layers of multi-token prediction get none.
bool carries_logits(const ModelConfig& config, int64_t layer);
// Columns of the hidden states that enter this layer: C, or more.
int64_t hidden_columns(const ModelConfig& config, int64_t layer, DType compute);

// The two parts of such hidden states: [n, C], and f32 [n, E].
struct CarriedLogits {
  Tensor hidden;
  Tensor logits;
};
CarriedLogits split_logits(Stream& stream, const ModelConfig& config, const Tensor& x);
// `logits` f32 [m, E] are those of the rows from `first_row` on; undefined: all are zeros.
Tensor join_logits(Stream& stream, const ModelConfig& config, const Tensor& hidden, const Tensor& logits,
                   int64_t first_row);

}  // namespace trireme
