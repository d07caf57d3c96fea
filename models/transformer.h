// A whole decoder-only transformer as a list of units: embedding, blocks, loss head; with the buckets that hold its
// weights and the names of its parameters in Hugging Face checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "models/loss_head.h"
#include "parallel/name_map.h"
#include "parallel/unit.h"
#include "parallel/zero/bucket.h"

namespace trireme {

class Transformer {
 public:
  struct Options {
    DType compute = DType::f32;
    DType gradients = DType::f32;
    DType states = DType::f32;  // of the optimizer
    int64_t max_sequence = 0;   // longest sequence that will run, tokens; size of the rotary table
    bool with_optimizer_states = true;
    bool with_master = true;  // fp32 master weights beside bf16 ones
    // parallel.zero, and this rank's place among those that share shards (bucket.h).
    int zero = 0;
    int64_t num_shards = 1;
    int64_t shard = 0;
  };

  // Allocates everything; weights are zero until `initialize`. REQUIRES: the configuration was checked.
  Transformer(Stream& stream, const ModelConfig& config, const Options& options);

  void initialize(Stream& stream, uint64_t seed);

  const ModelConfig& config() const { return config_; }
  std::vector<Unit*> units() const;
  std::vector<Bucket*> buckets() const;
  LossHead& head() const { return *head_; }
  // Every parameter once, with its bucket, in the order of the units.
  const std::vector<ParameterRef>& parameters() const { return parameters_; }
  int64_t num_parameters() const;  // tied ones once, without padding

 private:
  void add_bucket(Stream& stream, const Options& options, std::string name, std::vector<Weight*> weights,
                  Bucket* values_of = nullptr);

  ModelConfig config_;
  Weight embedding_;
  Weight positions_;
  Weight head_table_;  // of its own, or (tied) the second use of the embedding
  std::vector<std::unique_ptr<Unit>> units_;
  LossHead* head_ = nullptr;
  std::vector<std::unique_ptr<Bucket>> buckets_;
  std::vector<ParameterRef> parameters_;
};

// How the parameters of `config` stand in its family's Hugging Face checkpoints.
NameMap hugging_face_names(const ModelConfig& config);

// Number of parameters without building the model.
int64_t count_parameters(const ModelConfig& config);

// Model FLOPs of training on one token at sequence length T, forward and backward: 6 for each element of a matrix
// that the token meets (the head's among them, the embedding's look-up not) plus attention, causal and so counted
// half: 6·L·H·D·T. Recomputation is not counted. (Chowdhery et al. 2022, appendix B, halved for causality)
double model_flops_per_token(const ModelConfig& config, int64_t sequence);

}  // namespace trireme
