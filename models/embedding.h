// The first unit: token embedding, plus learned positions in GPT-2.
#pragma once

#include "core/ops/vocabulary_part.h"
#include "models/layers.h"
#include "parallel/tensor_group.h"
#include "parallel/unit.h"

namespace trireme {

// Which tokens this rank's rows of such a table [V, C] are for.
ops::VocabularyPart vocabulary_part(const Weight& table);

class EmbeddingUnit final : public Unit {
 public:
  // `table` [V, C], or this rank's rows of it, may be shared with the loss head (tied); `positions` [P, C] may be nullptr.
  // Both outlive the unit. The first tensor rank adds the positions to its summand.
  EmbeddingUnit(Weight* table, Weight* positions, const TensorGroup& tensor = {})
      : table_(table), positions_(positions), tensor_(tensor) {}

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
  TensorGroup tensor_;
};

}  // namespace trireme
