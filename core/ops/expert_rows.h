// Rows on their way between tokens and experts.
//
// n tokens with K slots each; a *pair* is (token r, slot k), numbered r·K + k. `experts` i32 [n, K] names each pair's
// expert. Rows are f32 or bf16; counts of rows may be 0. Numbers of rows and pairs stay below 2^31.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// Sorts pairs by expert, and inside an expert by number; those of experts below 0 or from E on are left out.
//   counts[e]: pairs of expert e, i64 [E];
//   order[j]: the j-th pair, i32 [n·K]; behind the last one undefined;
//   position[r, k]: the j of pair (r, k), -1 where it was left out, i32 [n, K].
void sort_by_expert(Stream& stream, const Tensor& experts, int64_t num_experts, Tensor& counts, Tensor& order,
                    Tensor& position);

// y[j] = x[order[j] / slots]. x [n, C], y [A, C] of x's dtype; the first A elements of `order` i32 are used.
void gather_rows(Stream& stream, const Tensor& x, const Tensor& order, int64_t slots, Tensor& y);

// y[r] = Σ_s rows[position[r, s]], or y[r] += that with `accumulate`; -1 adds nothing. Summed in fp32 in the order of s (with
// accumulate: y first), rounded once. rows [A, C], position i32 [n, S], y [n, C].
void sum_rows(Stream& stream, const Tensor& rows, const Tensor& position, Tensor& y, bool accumulate);

// Positions where each expert's rows stand several times. out[r, k·T + t] = position[r, k] + shifts[t, experts[r, k]], -1
// stays -1. shifts i32 [T, E], out i32 [n, K·T].
void shift_positions(Stream& stream, const Tensor& position, const Tensor& experts, const Tensor& shifts, Tensor& out);

// y[r] += factor[r] · x[r]: x, y [n, C], factor f32 [n]. The sum is formed in fp32.
void add_scaled_rows(Stream& stream, const Tensor& x, const Tensor& factor, Tensor& y);
// dots[r] = Σ_c a[r, c] · b[r, c] in fp32; a, b [n, C], dots f32 [n].
void row_dots(Stream& stream, const Tensor& a, const Tensor& b, Tensor& dots);

// SwiGLU of rows that carry a weight: y[r] = weights[r] · silu(gate) · up. gate_up [R, 2F] as in activation.h, weights f32
// [R], y [R, F].
void weighted_swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& weights, Tensor& y);
// dweights[r] = Σ_f dy · silu(gate) · up, f32 [R]. dgate_up may alias gate_up.
void weighted_swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& weights,
                              Tensor& dgate_up, Tensor& dweights);

}  // namespace trireme::ops
