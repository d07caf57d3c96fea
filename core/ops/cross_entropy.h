// Cross-entropy over rows of logits, with its gradient in the same pass.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

inline constexpr int32_t kIgnoredLabel = -100;

// losses[n] = logsumexp(logits[n]) − logits[n][labels[n]], or 0 where the label is ignored.
// dlogits[n] = (softmax(logits[n]) − onehot(labels[n])) · grad_scale, or 0; left alone when undefined (evaluation; then
// grad_scale isn't read).
// logits [N, V] f32 or bf16, computed in fp32; labels i32 [N]; grad_scale f32 [1]; losses f32 [N]; dlogits [N, V] f32 or
// bf16, may alias logits of its dtype.
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& grad_scale, Tensor& losses,
                   Tensor& dlogits);

// scale = 1 / count, or 0 where count is 0: what each token's loss is multiplied with. count i64 [1], scale f32 [1].
void inverse_count(Stream& stream, const Tensor& count, Tensor& scale);

}  // namespace trireme::ops
