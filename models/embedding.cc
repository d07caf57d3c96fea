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

ops::VocabularyPart vocabulary_part(const Weight& table) {
  const LocalPart& rows = table.parts.front().part;
  return {rows.begin, rows.size};
}

Tensor EmbeddingUnit::forward(Stream& stream, const Microbatch& microbatch, const Tensor&, Stash&) {
  Tensor y = Tensor::empty(stream, {microbatch.num_tokens(), table_->value.dim(1)}, table_->value.dtype());
  const bool adds_positions = positions_ != nullptr && tensor_.is_first();
  ops::embedding_forward(stream, microbatch.tokens, table_->value, vocabulary_part(*table_), microbatch.positions,
                         adds_positions ? positions_->value : Tensor{}, y);
  return tensor_.reduce(stream, y);
}

Tensor EmbeddingUnit::backward_input(Stream&, const Microbatch&, const Tensor& dy, Stash& stash) {
  stash.put(kGradOutput, dy);
  return {};
}

void EmbeddingUnit::backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) {
  const Tensor dy = tensor_.gather(stream, stash.take(kGradOutput), microbatch.num_tokens());
  ops::embedding_backward(stream, microbatch.tokens, vocabulary_part(*table_), dy, table_->gradient,
                          table_->accumulate_gradient());
  if (positions_ != nullptr) {
    ops::embedding_backward(stream, microbatch.positions, {0, positions_->shape()[0]}, dy, positions_->gradient,
                            positions_->accumulate_gradient());
  }
}

}  // namespace trireme
