// The first unit: token embedding, plus learned positions in GPT-2.
#pragma once

#include "models/layers.h"
#include "parallel/unit.h"

namespace trireme {

class EmbeddingUnit final : public Unit {
 public:
  // `table` [V, C] may be shared with the loss head (tied); `positions` [P, C] may be nullptr. Both outlive the unit.
  EmbeddingUnit(Weight* table, Weight* positions) : table_(table), positions_(positions) {}

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override;
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) override;
  bool reads_values_in_backward() const override { return false; }

 private:
  std::string name_ = "embedding";
  Weight* table_;
  Weight* positions_;
};

}  // namespace trireme
