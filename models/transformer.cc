#include "models/transformer.h"

#include "models/model_units.h"
#include "models/rotary_table.h"
#include "parallel/zero/weight_groups.h"

namespace trireme {

Transformer::Transformer(Stream& stream, const ModelConfig& config, const Options& options, const ModelPlace& place)
    : config_(config),
      place_(place),
      compute_(options.compute),
      moe_stats_(stream, config),
      units_(std::make_unique<ModelUnits>(config, place, make_rotary_table(stream, config, options.max_sequence),
                                          options.moe, &moe_stats_)) {
  // A bucket for each unit, or one for each kind of its weights; tables in buckets of their own, since they may be tied.
  for (const auto& unit : units_->units) {
    std::vector<Weight*> rest;
    for (Weight* weight : unit->weights()) {
      if (const std::string table = table_name(*weight); !table.empty()) {
        add_bucket(stream, options, table, {weight});
      } else {
        rest.push_back(weight);
      }
    }
    for (const std::vector<Weight*>& group : group_weights(rest, place.mesh)) {
      add_bucket(stream, options, unit->name(), group);
    }
  }
}

Transformer::~Transformer() = default;

Bucket::Options Transformer::Options::buckets() const {
  return {.compute = compute,
          .gradients = gradients,
          .states = states,
          .stage = zero,
          .with_optimizer_states = with_optimizer_states,
          .with_master = with_master};
}

// Empty for what is no table.
std::string Transformer::table_name(const Weight& weight) const {
  if (&weight == &units_->embedding) return "embedding";
  if (&weight == &units_->positions) return "positions";
  if (&weight == &units_->head_table) return "head table";
  return &weight == &units_->predictor_table ? "embedding of the predictors" : "";
}

void Transformer::add_bucket(Stream& stream, const Options& options, std::string name, std::vector<Weight*> weights) {
  const Mesh& mesh = place_.mesh;
  const bool second_use = weights.front() == units_->second_use();
  const bool two_uses = second_use || (units_->used_twice && weights.front() == &units_->embedding);
  const bool both_here = units_->embedding_unit != nullptr && units_->head != nullptr;
  Bucket::Options made = bucket_options(options.buckets(), weights.front()->parts.front(), mesh);
  made.on_both_ends = two_uses && !both_here;
  if (second_use && both_here) made.values_of = buckets_.front().get();
  buckets_.push_back(std::make_unique<Bucket>(stream, std::move(name), weights, made));
  if (made.values_of != nullptr) return;

  Bucket& bucket = *buckets_.back();
  const bool speaks = mesh.group_rank(bucket.copy_axes()) == 0 && !(second_use && !both_here);
  for (Weight* weight : weights) {
    for (Parameter& part : weight->parts) {
      parameters_.push_back({.parameter = &part, .bucket = &bucket, .speaks = speaks});
    }
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

std::vector<std::pair<int64_t, Weight*>> Transformer::score_biases() const {
  std::vector<std::pair<int64_t, Weight*>> list;
  for (const ModelChunk& chunk : units_->chunks) {
    int64_t moe_layer = 0;
    for (int64_t layer = 0; layer < chunk.first_layer; ++layer) moe_layer += config_.has_experts(layer);
    for (int64_t i = 0; i < chunk.num_layers; ++i) {
      if (!config_.has_experts(chunk.first_layer + i)) continue;
      for (Weight* weight : units_->units[chunk.first_block + static_cast<size_t>(i)]->weights()) {
        if (weight->parts.front().is_buffer()) list.emplace_back(moe_layer, weight);
      }
      ++moe_layer;
    }
  }
  if (head() == nullptr) return list;
  int64_t moe_layer = 0;
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) moe_layer += config_.has_experts(layer);
  for (const auto& predictor : head()->predictors()) {
    for (Weight* weight : predictor->block_weights()) {
      if (weight->parts.front().is_buffer()) list.emplace_back(moe_layer, weight);
    }
    ++moe_layer;  // a module behind a layer with experts has some, too
  }
  return list;
}

LossHead* Transformer::head() const { return units_->head; }

std::vector<Bucket*> Transformer::buckets() const {
  std::vector<Bucket*> list;
  for (const auto& bucket : buckets_) list.push_back(bucket.get());
  return list;
}

}  // namespace trireme
