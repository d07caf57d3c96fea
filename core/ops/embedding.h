// Token (and learned position) embedding.
#pragma once

#include "core/ops/vocabulary_part.h"
#include "core/tensor/tensor.h"

namespace trireme::ops {

// y[n] = table[tokens[n] − part.first], or 0 for a token outside `part`, (+ position_table[positions[n]] where
// position_table is defined). So y summed over the parts of a vocabulary is the row of the whole table, exactly; the
// position table is then for one of them.
// tokens, positions i32 [N]; table [W, C], position_table [P, C], y [N, C] of one dtype (f32 or bf16). W >= part.size,
// rows behind the part are not read. The whole table is the part {0, V}.
// A negative id, or a position outside its table, is a bug of ours: data is checked when it is read.
void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const VocabularyPart& part,
                       const Tensor& positions, const Tensor& position_table, Tensor& y);

// dtable[id − part.first] += Σ dy[n] over the n with ids[n] = id, for the ids in `part`, in an order that depends on
// nothing but the ids: the same bits run after run, and on any number of threads, and the same for an id whatever the
// part. dtable f32 or bf16 [W, C]; without `accumulate` all of it is zeroed first, rows behind the part included. In bf16
// the sum of the call, with what was there before, is formed in fp32 and rounded once, to nearest.
void embedding_backward(Stream& stream, const Tensor& ids, const VocabularyPart& part, const Tensor& dy, Tensor& dtable,
                        bool accumulate);

}  // namespace trireme::ops
