// A whole decoder-only transformer as a list of units: embedding, blocks, loss head; with the buckets that hold its
// weights and the names of its parameters in Hugging Face checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "models/loss_head.h"
#include "models/model_facts.h"
#include "models/moe/stats.h"
#include "parallel/tensor_group.h"
#include "parallel/unit.h"
#include "parallel/zero/bucket.h"

namespace trireme {

// What of the model one rank holds. Chunk i of the model is `layers_of_chunk[i]` consecutive layers; the first chunk begins
// with the embedding, the last one ends with the loss head.
struct ModelPlace {
  Mesh mesh = Mesh({}, 0);
  TensorGroup tensor = {};
  Communicator* dispatch = nullptr;           // of experts, over expert_tensor and expert; none where that is one rank
  Communicator* data = nullptr;               // over both data axes; likewise
  std::vector<int64_t> layers_of_chunk = {};  // none: one chunk of all layers
  std::vector<int> chunks = {0};              // on this rank, ascending
};

// A chunk on this rank: some units of Transformer::units().
struct ModelChunk {
  int chunk = 0;
  size_t first_unit = 0;
  size_t num_units = 0;
  size_t first_block = 0;   // the first unit that is a layer
  int64_t first_layer = 0;  // of the model
  int64_t num_layers = 0;
};

struct ModelUnits;

class Transformer {
 public:
  struct Options {
    DType compute = DType::f32;
    DType gradients = DType::f32;
    DType states = DType::f32;  // of the optimizer
    int64_t max_sequence = 0;   // longest sequence that will run, tokens; size of the rotary table
    int zero = 0;               // parallel.zero, over the data_shard axis of the place's mesh (experts: expert_shard)
    bool with_optimizer_states = true;
    bool with_master = true;  // fp32 master weights beside bf16 ones
    MoeConfig moe = {};       // how experts are trained

    Bucket::Options buckets()
        const;  // of the whole run; parallel/zero/weight_groups.h makes those of one bucket of them
  };

  // Allocates everything; weights are zero until `initialize`. REQUIRES: the configuration was checked.
  Transformer(Stream& stream, const ModelConfig& config, const Options& options, const ModelPlace& place = {});
  ~Transformer();

  void initialize(Stream& stream, uint64_t seed);

  const ModelConfig& config() const { return config_; }
  const ModelPlace& place() const { return place_; }
  DType compute() const { return compute_; }  // of weights and hidden states
  // Of this rank, chunk by chunk.
  std::vector<Unit*> units() const;
  const std::vector<ModelChunk>& chunks() const;
  std::vector<Bucket*> buckets() const;
  LossHead* head() const;  // nullptr on ranks without the last chunk
  MoeStats& moe_stats() { return moe_stats_; }
  // The selection biases of layers with experts on this rank (ExpertsConfig::score_bias), by the layer's number among
  // those of the whole model.
  std::vector<std::pair<int64_t, Weight*>> score_biases() const;
  // Every parameter on this rank once, with its bucket, in the order of the units.
  const std::vector<ParameterRef>& parameters() const { return parameters_; }

 private:
  std::string table_name(const Weight& weight) const;
  void add_bucket(Stream& stream, const Options& options, std::string name, std::vector<Weight*> weights);

  ModelConfig config_;
  ModelPlace place_;
  DType compute_;
  MoeStats moe_stats_;
  std::unique_ptr<ModelUnits> units_;
  std::vector<std::unique_ptr<Bucket>> buckets_;
  std::vector<ParameterRef> parameters_;
};

// The parameters of the whole model, each once, in the order of the units: what a checkpoint holds. Without memory.
std::vector<Parameter> model_parameters(const ModelConfig& config);

// What the rank of `place` stores from step to step, in bytes (Rajbhandari et al. 2020, section 5): with P elements of
// parameters on the rank and S shards, weights take P, from stage 3 on P/S; gradients P, from stage 2 on P/S; what the
// optimizer keeps P, from stage 1 on P/S; each times its width; experts have shards of their own. A table whose both uses
// are here (tied, or for multi-token prediction) has gradients twice; buffers are weights alone. Gaps between weights in a bucket (under 64 elements each)
// aren't counted.
struct ModelMemory {
  int64_t parameters = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t num_parameters = 0;  // P, elements
};
ModelMemory model_memory(const ModelConfig& config, const ModelPlace& place, const Transformer::Options& options);

}  // namespace trireme
