#include "models/model_units.h"

#include <algorithm>
#include <set>
#include <string>

#include "models/block.h"
#include "models/embedding.h"
#include "models/parameter_names.h"
#include "parallel/zero/weight_groups.h"

namespace trireme {

namespace {

int num_chunks(const ModelPlace& place) { return std::max(1, static_cast<int>(place.layers_of_chunk.size())); }

int64_t layers_of(const ModelConfig& config, const ModelPlace& place, int chunk) {
  return place.layers_of_chunk.empty() ? config.num_layers : place.layers_of_chunk[static_cast<size_t>(chunk)];
}

// Whether the embedding's table is read again behind the last layer: by a tied head, by modules of multi-token prediction.
bool has_second_use(const ModelConfig& config) { return config.tie_embeddings || config.num_predictors > 0; }

// The table [V, C], as all its users see it.
Weight make_table(const ModelConfig& config, const ModelPlace& place) {
  Parameter table = make_embedding(ParameterNames::embedding(config.family), config.vocab_size, config.hidden_size,
                                   config.initializer_range);
  table = column_parallel(std::move(table), kTensorGranule);
  if (has_second_use(config)) table.chunks = {0, num_chunks(place) - 1};
  return Weight(std::move(table));
}

}  // namespace

ModelUnits::ModelUnits(const ModelConfig& config, const ModelPlace& place, const Tensor& rotary, const MoeConfig& moe,
                       MoeStats* stats)
    : used_twice(has_second_use(config)) {
  MoeSetup setup = MoeSetup::of(moe, place.mesh, place.tensor);
  setup.dispatch = place.dispatch;
  setup.data = place.data;
  setup.stats = stats;
  for (const int chunk : place.chunks) {
    ModelChunk& added = chunks.emplace_back();
    added.chunk = chunk;
    added.first_unit = units.size();
    if (chunk == 0) add_embedding(config, place);
    int64_t layer = 0;
    for (int before = 0; before < chunk; ++before) layer += layers_of(config, place, before);
    added.first_block = units.size();
    added.first_layer = layer;
    added.num_layers = layers_of(config, place, chunk);
    for (const int64_t end = layer + added.num_layers; layer < end; ++layer) {
      units.push_back(std::make_unique<TransformerBlock>(config, layer, rotary, place.tensor, setup));
    }
    if (chunk == num_chunks(place) - 1) {
      add_head(config, place);
      if (config.num_predictors > 0) add_predictors(config, place, rotary, setup);
    }
    added.num_units = units.size() - added.first_unit;
    for (size_t i = added.first_unit; i < units.size(); ++i) {
      for (Weight* weight : units[i]->weights()) {
        for (Parameter& part : weight->parts) {
          if (part.chunks.size() == 1) part.chunks = {chunk};
          part.place(place.mesh);
        }
      }
    }
  }
}

void ModelUnits::add_embedding(const ModelConfig& config, const ModelPlace& place) {
  embedding = make_table(config, place);
  if (config.rope.type == RopeType::none) {
    positions = Weight(make_embedding(ParameterNames::positions(config.family), config.max_positions,
                                      config.hidden_size, config.initializer_range));
  }
  units.push_back(std::make_unique<EmbeddingUnit>(&embedding, positions ? &positions : nullptr, place.tensor));
  embedding_unit = units.back().get();
}

void ModelUnits::add_head(const ModelConfig& config, const ModelPlace& place) {
  head_table = config.tie_embeddings
                   ? make_table(config, place)
                   : Weight(column_parallel(make_matrix(ParameterNames::head(config.family), config.vocab_size,
                                                        config.hidden_size, config.initializer_range),
                                            kTensorGranule));
  NormLayer norm =
      make_norm(ParameterNames::final_norm(config.family), config.hidden_size, config, place.tensor.sequence());
  auto unit = std::make_unique<LossHead>(std::move(norm), &head_table, place.tensor);
  head = unit.get();
  units.push_back(std::move(unit));
}

void ModelUnits::add_predictors(const ModelConfig& config, const ModelPlace& place, const Tensor& rotary,
                                const MoeSetup& setup) {
  if (!config.tie_embeddings) predictor_table = make_table(config, place);
  Weight* table = config.tie_embeddings ? &head_table : &predictor_table;
  std::vector<std::unique_ptr<Predictor>> predictors;
  for (int64_t k = 0; k < config.num_predictors; ++k) {
    predictors.push_back(
        std::make_unique<Predictor>(config, config.num_layers + k, rotary, place.tensor, setup, table));
  }
  head->set_predictors(std::move(predictors), table, setup.config.prediction_coef);
}

const Weight* ModelUnits::second_use() const {
  if (!used_twice || head == nullptr) return nullptr;
  return predictor_table ? &predictor_table : &head_table;
}

std::vector<Parameter> model_parameters(const ModelConfig& config) {
  const ModelUnits model(config, {}, {});
  std::vector<Parameter> list;
  std::set<std::string> names;
  for (const auto& unit : model.units) {
    for (const Weight* weight : unit->weights()) {
      for (const Parameter& part : weight->parts) {
        if (names.insert(part.name).second) list.push_back(part);
      }
    }
  }
  return list;
}

ModelMemory model_memory(const ModelConfig& config, const ModelPlace& place, const Transformer::Options& options) {
  const ModelUnits model(config, place, {});
  // Weights that are stored alike.
  struct Kind {
    Bucket::Options options;
    const Parameter* first;
    int64_t elements = 0;
    int64_t second_use = 0;
  };
  std::vector<Kind> kinds;
  for (const auto& unit : model.units) {
    for (const Weight* weight : unit->weights()) {
      const Parameter& first = weight->parts.front();
      auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) {
        return k.first->of_expert() == first.of_expert() && k.first->is_fp32() == first.is_fp32() &&
               k.first->is_buffer() == first.is_buffer();
      });
      if (kind == kinds.end()) {
        kind = kinds.insert(kind, {bucket_options(options.buckets(), first, place.mesh), &first});
      }
      const bool is_second = weight == model.second_use() && model.embedding_unit != nullptr;
      (is_second ? kind->second_use : kind->elements) += weight->numel();
    }
  }
  ModelMemory memory;
  for (const Kind& kind : kinds) {
    const Bucket::Options& o = kind.options;
    const auto stored = [&](int64_t n, int from_stage) { return o.stage >= from_stage ? n / o.num_shards : n; };
    memory.num_parameters += kind.elements;
    memory.parameters += stored(kind.elements, 3) * dtype_bytes(o.compute);
    if (!o.with_optimizer_states) continue;
    const bool master_is_copy = o.with_master && o.compute != DType::f32;
    memory.gradients += stored(kind.elements + kind.second_use, 2) * dtype_bytes(o.gradients);
    const int64_t width = 2 * dtype_bytes(o.states) + (master_is_copy ? dtype_bytes(DType::f32) : 0);
    memory.optimizer += stored(kind.elements, 1) * width;
  }
  return memory;
}

}  // namespace trireme
