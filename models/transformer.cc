#include "models/transformer.h"

#include "models/block.h"
#include "models/embedding.h"
#include "models/parameter_names.h"
#include "models/rotary_table.h"

namespace trireme {

Transformer::Transformer(Stream& stream, const ModelConfig& config, const Options& options) : config_(config) {
  const ModelFamily family = config.family;
  const double std = config.initializer_range;
  embedding_ = Weight(make_embedding(ParameterNames::embedding(family), config.vocab_size, config.hidden_size, std));
  const bool learned_positions = config.rope.type == RopeType::none;
  if (learned_positions) {
    positions_ =
        Weight(make_embedding(ParameterNames::positions(family), config.max_positions, config.hidden_size, std));
  }
  units_.push_back(std::make_unique<EmbeddingUnit>(&embedding_, learned_positions ? &positions_ : nullptr));
  const Tensor rotary = make_rotary_table(stream, config, options.max_sequence);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    units_.push_back(std::make_unique<TransformerBlock>(config, layer, rotary));
  }
  head_table_ = config.tie_embeddings
                    ? embedding_
                    : Weight(make_matrix(ParameterNames::head(family), config.vocab_size, config.hidden_size, std));
  auto head = std::make_unique<LossHead>(make_norm(ParameterNames::final_norm(family), config.hidden_size, config),
                                         &head_table_);
  head_ = head.get();
  units_.push_back(std::move(head));

  // One bucket for each unit; the embedding, which may be tied, in one of its own, and so its second use.
  add_bucket(stream, options, "embedding", {&embedding_});
  if (learned_positions) add_bucket(stream, options, "positions", {&positions_});
  for (const auto& unit : units_) {
    if (unit.get() == units_.front().get()) continue;
    std::vector<Weight*> weights = unit->weights();
    if (config.tie_embeddings) std::erase(weights, &head_table_);
    add_bucket(stream, options, unit->name(), weights);
  }
  if (config.tie_embeddings) add_bucket(stream, options, "head table", {&head_table_}, buckets_.front().get());
}

void Transformer::add_bucket(Stream& stream, const Options& options, std::string name, std::vector<Weight*> weights,
                             Bucket* values_of) {
  Bucket::Options bucket_options;
  bucket_options.compute = options.compute;
  bucket_options.gradients = options.gradients;
  bucket_options.states = options.states;
  bucket_options.with_master = options.with_master;
  bucket_options.with_optimizer_states = options.with_optimizer_states;
  bucket_options.stage = options.zero;
  bucket_options.num_shards = options.num_shards;
  bucket_options.shard = options.shard;
  bucket_options.values_of = values_of;
  buckets_.push_back(std::make_unique<Bucket>(stream, std::move(name), weights, bucket_options));
  if (values_of != nullptr) return;
  for (Weight* weight : weights) {
    for (Parameter& part : weight->parts) parameters_.push_back({&part, buckets_.back().get()});
  }
}

void Transformer::initialize(Stream& stream, uint64_t seed) {
  for (const auto& bucket : buckets_) bucket->initialize(stream, seed);
}

std::vector<Unit*> Transformer::units() const {
  std::vector<Unit*> list;
  for (const auto& unit : units_) list.push_back(unit.get());
  return list;
}

std::vector<Bucket*> Transformer::buckets() const {
  std::vector<Bucket*> list;
  for (const auto& bucket : buckets_) list.push_back(bucket.get());
  return list;
}

int64_t Transformer::num_parameters() const {
  int64_t n = 0;
  for (const ParameterRef& entry : parameters_) n += entry.parameter->shape.numel();
  return n;
}

}  // namespace trireme
