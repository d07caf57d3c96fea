// The units of a model on one rank, and the tables that units share. No memory yet: that is the buckets' part.
#pragma once

#include <memory>
#include <vector>

#include "models/loss_head.h"
#include "models/transformer.h"

namespace trireme {

// Stays where it was made: units point into it.
struct ModelUnits {
  // `stats`: where layers with experts count; nullptr: nowhere.
  ModelUnits(const ModelConfig& config, const ModelPlace& place, const Tensor& rotary, const MoeConfig& moe = {},
             MoeStats* stats = nullptr);
  ModelUnits(const ModelUnits&) = delete;
  ModelUnits& operator=(const ModelUnits&) = delete;

  Weight embedding;
  Weight positions;   // GPT-2 only
  Weight head_table;  // where it is tied, a second use of the embedding, with gradients of its own
  std::vector<std::unique_ptr<Unit>> units;
  std::vector<ModelChunk> chunks;
  const Unit* embedding_unit = nullptr;
  LossHead* head = nullptr;

 private:
  void add_embedding(const ModelConfig& config, const ModelPlace& place);
  void add_head(const ModelConfig& config, const ModelPlace& place);
};

}  // namespace trireme
