// Cross-entropy over rows of logits, with its gradient in the same pass.
#pragma once

#include "core/ops/vocabulary_part.h"
#include "core/tensor/tensor.h"

namespace trireme::ops {

inline constexpr int32_t kIgnoredLabel = -100;

// losses[n] = logsumexp(logits[n]) − logits[n][labels[n]], or 0 where the label is ignored.
// dlogits[n] = (softmax(logits[n]) − onehot(labels[n])) · grad_scale, or 0; left alone when undefined (evaluation; then
// grad_scale isn't read).
// logits [N, W] f32 or bf16, computed in fp32: column j is the vocabulary's entry part.first + j, columns from part.size
// on are padding, which no softmax contains and whose dlogits are 0; W >= part.size. labels i32 [N]; grad_scale f32 [1];
// losses f32 [N]; dlogits [N, W] f32 or bf16, may alias logits of its dtype.
//
// `stats_of_all` is undefined where `part` is the whole vocabulary, {0, V}. Where other ranks have other parts of the same
// rows it is f32 [t, N, 3]: what cross_entropy_stats gave on each, in the order of the parts. Each rank then gets the
// same losses, bit for bit, and the dlogits of its part.
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const VocabularyPart& part,
                   const Tensor& stats_of_all, const Tensor& grad_scale, Tensor& losses, Tensor& dlogits);

// stats f32 [N, 3], a row of which is what a part knows of a row of logits (part_stats.h): the maximum over the part,
// Σ e^(x − maximum), the label's logit, −∞ where the label is another part's. {−∞, 0, −∞} for a part without entries, and
// where the label is ignored.
void cross_entropy_stats(Stream& stream, const Tensor& logits, const Tensor& labels, const VocabularyPart& part,
                         Tensor& stats);

// scale = 1 / count, or 0 where count is 0: what each token's loss is multiplied with. count i64 [1], scale f32 [1].
void inverse_count(Stream& stream, const Tensor& count, Tensor& scale);

}  // namespace trireme::ops
