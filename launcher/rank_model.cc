#include "launcher/rank_model.h"

#include "launcher/configured_schedule.h"
#include "launcher/precision.h"
#include "parallel/resolve.h"

namespace trireme {

Transformer::Options model_options(const Config& config, const Device& device) {
  return resolve_precision(config, device).model_options(config.data.sequence_length, config.parallel);
}

ModelPlace model_place(const Config& config, const Mesh& mesh, const TensorGroup& tensor) {
  ModelPlace place;
  place.mesh = mesh;
  place.tensor = tensor;
  place.layers_of_chunk = resolve_stages(config);
  place.chunks = configured_schedule(config.parallel, /*num_microbatches=*/1, /*forward_only=*/true)
                     .chunks_of(static_cast<int>(mesh.coordinate(Axis::pipeline)));
  return place;
}

RankModel::RankModel(RankContext& rank, const Config& config)
    : model(rank.stream(), config.model, model_options(config, rank.stream().device()),
            model_place(config, rank.mesh(), rank.tensor_group())),
      state(rank.stream(), model_parameters(config.model), model.parameters(), rank.world(), rank.host_stream()),
      step(rank.stream(), rank.groups(), model, config) {}

}  // namespace trireme
