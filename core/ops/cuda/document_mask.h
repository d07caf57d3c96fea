// The document boundaries of attention as a mask that is added to the scores before the softmax.
//
// A pair that is hidden gets -2^30, not minus infinity: a tile that is hidden from its row as a whole must not make the
// running maximum of an online softmax infinite (the difference of two infinities is not a number). What such a tile
// leaves behind is multiplied by exp(-2^30) = 0 once a visible key comes, and each row sees at least itself. Scores of
// the visible pairs keep their bits. Hidden scores above 2^30 would show through; they are those of a run that is lost.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

// Elements between two rows of the mask: T, rounded up so that each row begins at 16 bytes.
inline int64_t document_mask_stride(int64_t sequence) { return (sequence + 7) / 8 * 8; }

// document_start i32 [B·T] (core/ops/attention.h) to mask bf16 [B, T, stride]: 0 where the key of a column is not before
// the start of the row's document, -2^30 where it is. Keys behind the query are 0: the causal mask hides them. `mask`
// has at least B·T·stride·2 bytes, whatever its dtype and shape. Queued on the stream.
void document_mask(Stream& stream, const Tensor& document_start, int64_t sequence, Tensor& mask);

}  // namespace trireme::cuda
