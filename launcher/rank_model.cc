#include "launcher/rank_model.h"

#include "launcher/configured_schedule.h"
#include "launcher/precision.h"
#include "parallel/resolve.h"

namespace trireme {

Transformer::Options model_options(const Config& config, const Device& device) {
  Transformer::Options options =
      resolve_precision(config, device).model_options(config.data.sequence_length, config.parallel);
  options.moe = config.moe;
  return options;
}

ModelPlace model_place(const Config& config, const Mesh& mesh, const TensorGroup& tensor, const Groups* groups) {
  ModelPlace place;
  place.mesh = mesh;
  place.tensor = tensor;
  place.layers_of_chunk = resolve_stages(config);
  place.chunks = configured_schedule(config.parallel, /*num_microbatches=*/1, /*forward_only=*/true)
                     .chunks_of(static_cast<int>(mesh.coordinate(Axis::pipeline)));
  if (groups == nullptr || config.model.experts.num_experts == 0) return place;
  const auto group_of = [&](AxisSet axes) { return mesh.group_size(axes) > 1 ? &groups->of(axes) : nullptr; };
  place.dispatch = group_of(kDispatchAxes);
  place.data = group_of(kDataAxes);
  return place;
}

RankModel::RankModel(RankContext& rank, const Config& config)
    : model(rank.stream(), config.model, model_options(config, rank.stream().device()),
            model_place(config, rank.mesh(), rank.tensor_group(), &rank.groups())),
      state(rank.stream(), model_parameters(config.model), model.parameters(), rank.world(), rank.host_stream()),
      step(rank.stream(), rank.groups(), model, config) {}

}  // namespace trireme
