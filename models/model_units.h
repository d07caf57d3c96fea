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
  Weight positions;  // GPT-2 only
  // The head's: its own, or where it is tied a second use of the embedding, with gradients of its own.
  Weight head_table;
  // Of the modules of multi-token prediction, where nothing is tied: a second use of the embedding. None without modules;
  // where the head's is tied they share that.
  Weight predictor_table;
  // Whichever of the two is a second use of the embedding on a rank with the head, else nullptr.
  const Weight* second_use() const;
  // Whether both the embedding and a second use of it are somewhere in the model.
  bool used_twice = false;
  std::vector<std::unique_ptr<Unit>> units;
  std::vector<ModelChunk> chunks;
  const Unit* embedding_unit = nullptr;
  LossHead* head = nullptr;

 private:
  void add_embedding(const ModelConfig& config, const ModelPlace& place);
  void add_head(const ModelConfig& config, const ModelPlace& place);
  void add_predictors(const ModelConfig& config, const ModelPlace& place, const Tensor& rotary, const MoeSetup& setup);
};

}  // namespace trireme
