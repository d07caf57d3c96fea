// The last unit: final norm, projection to the vocabulary, cross-entropy.
//
// The one exception to the two halves of backward: `forward` computes the loss, the gradient of its input and the
// gradients of its weights chunk of tokens by chunk, so that the logits of a microbatch never exist as a whole;
// `backward_input` returns what was stashed; `backward_weight` is empty. In evaluation the gradients are skipped.
#pragma once

#include "models/layers.h"
#include "parallel/unit.h"

namespace trireme {

class LossHead final : public Unit {
 public:
  // `table` [V, C] may be shared with the embedding (tied); it outlives the unit. `norm` becomes the head's own.
  LossHead(NormLayer norm, Weight* table) : norm_(std::move(norm)), table_(table) {}

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

  // Logits f32 [n, V] of hidden states x [n, C], for generation.
  Tensor logits(Stream& stream, const Tensor& x) const;

 private:
  std::string name_ = "head";
  NormLayer norm_;
  Weight* table_;
};

}  // namespace trireme
