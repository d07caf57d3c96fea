// The last unit: final norm, projection to the vocabulary, cross-entropy.
//
// The one exception to the two halves of backward: `forward` computes the loss, the gradient of its input and the
// gradients of its weights chunk of tokens by chunk, so that the logits of a microbatch never exist as a whole;
// `backward_input` returns what was stashed; `backward_weight` is empty. In evaluation the gradients are skipped.
//
// Modules of multi-token prediction (predictor.h) live in it for the same reason, those of a model that has some: main loss
// and modules share the head's table, and where that is tied the embedding's, too, so that all of their gradients are made
// in one place and the table's are added up once. Forward runs them forward and backward, one after the other, and adds
// what their hidden states get to the gradient of the head's input. Evaluation skips them.
//
//   gradient = main + λ / D · Σ_k L_k, L_k = Σ_i −log P(t_{i+k+1}) / (valid labels of the global batch)
//
// with D modules and λ = moe.prediction_coef. L_k is divided by what the main loss is divided by, though up to k labels per
// sequence fewer count in it: as in the paper, which divides by the length T of a sequence.
//
// Over a tensor group each rank makes the logits of its part of the vocabulary; of each token only three numbers are
// exchanged (ops/cross_entropy.h), and the input's gradient is summed once, behind the last chunk.
#pragma once

#include <memory>
#include <vector>

#include "core/ops/vocabulary_part.h"
#include "models/layers.h"
#include "models/predictor.h"
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
  // Modules k = 1, 2, … of multi-token prediction, and λ. `table` of the embedding, as they see it, may be the head's own
  // (tied); it outlives the unit.
  void set_predictors(std::vector<std::unique_ptr<Predictor>> predictors, Weight* table, double coef);

  std::vector<Weight*> weights() override;
  NormLayer& norm() { return norm_; }
  const std::vector<std::unique_ptr<Predictor>>& predictors() const { return predictors_; }

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
  // One cross-entropy over all N rows x; gradients where `grad_scale` is defined.
  struct Loss {
    Tensor labels;      // i32 [N]
    Tensor grad_scale;  // f32 [1]
    Tensor logits;      // see Microbatch
    Tensor sum;         // f64 [1], added to
  };
  // Gradients of x, of which this rank has a summand; undefined without gradients.
  Tensor cross_entropy(Stream& stream, const Tensor& x, const Loss& loss);
  // hidden [rows, C] -> norm -> cross-entropy; the gradient of `hidden`, or undefined.
  Tensor norm_and_loss(Stream& stream, NormLayer& norm, const Tensor& hidden, const Loss& loss);
  // All modules, forward and backward. Returns dx and what x gets from them.
  Tensor predict(Stream& stream, const Microbatch& microbatch, const Tensor& x, const Tensor& dx);

  std::string name_ = "head";
  NormLayer norm_;
  Weight* table_;
  std::vector<std::unique_ptr<Predictor>> predictors_;
  Weight* predictor_table_ = nullptr;
  double prediction_coef_ = 0;
  TensorGroup tensor_;
};

}  // namespace trireme
