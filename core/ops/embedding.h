// Token (and learned position) embedding.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// y[n] = table[tokens[n]] (+ position_table[positions[n]] where position_table is defined).
// tokens, positions i32 [N]; table [V, C], position_table [P, C], y [N, C] of one dtype (f32 or bf16).
// An id outside the table is a bug of ours: data is checked when it is read.
void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const Tensor& positions,
                       const Tensor& position_table, Tensor& y);

// dtable[id] += Σ dy[n] over the n with ids[n] = id, in an order that depends on nothing but the ids: the same bits run
// after run, and on any number of threads. dtable f32 or bf16 [V, C]; without `accumulate` it is zeroed first. In bf16
// the sum of the call, with what was there before, is formed in fp32 and rounded once, to nearest.
void embedding_backward(Stream& stream, const Tensor& ids, const Tensor& dy, Tensor& dtable, bool accumulate);

}  // namespace trireme::ops
