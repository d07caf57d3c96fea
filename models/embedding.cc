#include "models/embedding.h"

#include "core/ops/embedding.h"

namespace trireme {

namespace {
enum Slot : int { kGradOutput };
}

std::vector<Weight*> EmbeddingUnit::weights() {
  std::vector<Weight*> list{table_};
  if (positions_ != nullptr) list.push_back(positions_);
  return list;
}

Tensor EmbeddingUnit::forward(Stream& stream, const Microbatch& microbatch, const Tensor&, Stash&) {
  Tensor y = Tensor::empty(stream, {microbatch.num_tokens(), table_->value.dim(1)}, table_->value.dtype());
  ops::embedding_forward(stream, microbatch.tokens, table_->value, {0, table_->value.dim(0)}, microbatch.positions,
                         positions_ != nullptr ? positions_->value : Tensor{}, y);
  return y;
}

Tensor EmbeddingUnit::backward_input(Stream&, const Microbatch&, const Tensor& dy, Stash& stash) {
  stash.put(kGradOutput, dy);
  return {};
}

void EmbeddingUnit::backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  const Tensor dy = stash.take(kGradOutput);
  ops::embedding_backward(stream, microbatch.tokens, {0, table_->value.dim(0)}, dy, table_->gradient,
                          table_->accumulate_gradient());
  if (positions_ != nullptr) {
    ops::embedding_backward(stream, microbatch.positions, {0, positions_->value.dim(0)}, dy, positions_->gradient,
                            positions_->accumulate_gradient());
  }
}

}  // namespace trireme
