#include "models/transformer.h"

#include "models/model_units.h"
#include "models/rotary_table.h"

namespace trireme {

Transformer::Transformer(Stream& stream, const ModelConfig& config, const Options& options, const ModelPlace& place)
    : config_(config),
      place_(place),
      units_(std::make_unique<ModelUnits>(config, place, make_rotary_table(stream, config, options.max_sequence))) {
  // One bucket for each unit; tables in buckets of their own, since the embedding's may be tied.
  for (const auto& unit : units_->units) {
    std::vector<Weight*> rest;
    for (Weight* weight : unit->weights()) {
      if (weight != &units_->embedding && weight != &units_->positions) rest.push_back(weight);
    }
    if (unit.get() == units_->embedding_unit) {
      add_bucket(stream, options, "embedding", {&units_->embedding});
      if (units_->positions) add_bucket(stream, options, "positions", {&units_->positions});
    }
    if (!rest.empty()) add_bucket(stream, options, unit->name(), rest);
  }
}

Transformer::~Transformer() = default;

void Transformer::add_bucket(Stream& stream, const Options& options, std::string name, std::vector<Weight*> weights) {
  Bucket::Options bucket_options;
  bucket_options.compute = options.compute;
  bucket_options.gradients = options.gradients;
  bucket_options.states = options.states;
  bucket_options.with_master = options.with_master;
  bucket_options.with_optimizer_states = options.with_optimizer_states;
  buckets_.push_back(std::make_unique<Bucket>(stream, std::move(name), weights, bucket_options));
  for (Weight* weight : weights) {
    for (Parameter& part : weight->parts) parameters_.push_back({&part, buckets_.back().get()});
  }
}

void Transformer::initialize(Stream& stream, uint64_t seed) {
  for (const auto& bucket : buckets_) bucket->initialize(stream, seed);
}

std::vector<Unit*> Transformer::units() const {
  std::vector<Unit*> list;
  for (const auto& unit : units_->units) list.push_back(unit.get());
  return list;
}

const std::vector<ModelChunk>& Transformer::chunks() const { return units_->chunks; }

LossHead* Transformer::head() const { return units_->head; }

std::vector<Bucket*> Transformer::buckets() const {
  std::vector<Bucket*> list;
  for (const auto& bucket : buckets_) list.push_back(bucket.get());
  return list;
}

}  // namespace trireme
