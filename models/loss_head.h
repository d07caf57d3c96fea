// The last unit: final norm, projection to the vocabulary, cross-entropy.
//
// The one exception to the two halves of backward: `forward` computes the loss, the gradient of its input and the
// gradients of its weights chunk of tokens by chunk, so that the logits of a microbatch never exist as a whole;
// `backward_input` returns what was stashed; `backward_weight` is empty. In evaluation the gradients are skipped.
//
// Over a tensor group each rank makes the logits of its part of the vocabulary; of each token only three numbers are
// exchanged (ops/cross_entropy.h), and the input's gradient is summed once, behind the last chunk.
#pragma once

#include "core/ops/vocabulary_part.h"
#include "models/layers.h"
#include "parallel/tensor_group.h"
#include "parallel/unit.h"

namespace trireme {

class LossHead final : public Unit {
 public:
  // `table` [V, C], or this rank's rows of it, may be shared with the embedding (tied); it outlives the unit. `norm`
  // becomes the head's own.
  LossHead(NormLayer norm, Weight* table, const TensorGroup& tensor = {})
      : norm_(std::move(norm)), table_(table), tensor_(tensor) {}

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override;
  NormLayer& norm() { return norm_; }

  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream&, const Microbatch&, Stash&) override {}
  bool gradients_in_forward() const override { return true; }

  // How the logits of a microbatch of `num_tokens` are cut: `tokens` exist at the same time, in `dtype`. On a GPU they
  // have the compute dtype, which halves what cross-entropy reads and lets the gradients take their place.
  struct Chunks {
    int64_t tokens = 0;
    DType dtype = DType::f32;
    int64_t bytes(int64_t vocab) const { return tokens * vocab * dtype_bytes(dtype); }
  };
  static Chunks chunks(DeviceType device, DType compute, int64_t num_tokens, int64_t vocab);

  // The entries of the vocabulary whose logits are made here, and the rows of the table in which they lie, padding
  // behind them.
  ops::VocabularyPart part() const;
  int64_t num_rows() const { return table_->shape()[0]; }

  // Logits f32 [n, V] of hidden states x [n, C], for generation. REQUIRES: one tensor rank.
  Tensor logits(Stream& stream, const Tensor& x) const;

 private:
  Tensor chunk_logits(Stream& stream, const Tensor& x, DType dtype) const;
  Tensor stats_of_all(Stream& stream, const Tensor& logits, const Tensor& labels) const;

  std::string name_ = "head";
  NormLayer norm_;
  Weight* table_;
  TensorGroup tensor_;
};

}  // namespace trireme
