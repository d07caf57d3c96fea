// Cross-entropy over rows of logits, with its gradient in the same pass.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

inline constexpr int32_t kIgnoredLabel = -100;

// losses[n] = logsumexp(logits[n]) − logits[n][labels[n]], or 0 where the label is ignored.
// dlogits[n] = (softmax(logits[n]) − onehot(labels[n])) · grad_scale, or 0; left alone when undefined (evaluation).
// logits f32 [N, V]; labels i32 [N]; losses f32 [N]; dlogits [N, V] f32 (may alias logits) or bf16.
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, float grad_scale, Tensor& losses,
                   Tensor& dlogits);

}  // namespace trireme::ops
