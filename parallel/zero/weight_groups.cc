#include "parallel/zero/weight_groups.h"

#include <algorithm>
#include <utility>

namespace trireme {

namespace {

struct Key {
  AxisSet partial;
  AxisSet cut;
  bool of_expert = false;
  bool is_fp32 = false;
  bool is_buffer = false;
  bool operator==(const Key&) const = default;
};

Key key_of(const Parameter& parameter, const Mesh& mesh) {
  AxisSet alone;  // axes of degree 1
  for (int i = 0; i < kNumAxes; ++i) {
    if (mesh.degree(static_cast<Axis>(i)) == 1) alone.insert(static_cast<Axis>(i));
  }
  return {.partial = parameter.gradient_placement.partial_axes().without(alone),
          .cut = parameter.placement.cut_axes().without(alone),
          .of_expert = parameter.of_expert(),
          .is_fp32 = parameter.is_fp32(),
          .is_buffer = parameter.is_buffer()};
}

}  // namespace

std::vector<std::vector<Weight*>> group_weights(const std::vector<Weight*>& weights, const Mesh& mesh) {
  std::vector<Key> keys;
  std::vector<std::vector<Weight*>> groups;
  for (Weight* weight : weights) {
    const Key key = key_of(weight->parts.front(), mesh);
    for (const Parameter& part : weight->parts) {
      TRIREME_CHECK(key_of(part, mesh) == key, "parameters of one weight that are reduced differently");
    }
    const size_t i = static_cast<size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
    if (i == keys.size()) {
      keys.push_back(key);
      groups.emplace_back();
    }
    groups[i].push_back(weight);
  }
  return groups;
}

Bucket::Options bucket_options(const Bucket::Options& run, const Parameter& first, const Mesh& mesh) {
  Bucket::Options options = run;
  options.num_shards = mesh.degree(first.shard_axis());
  options.shard = mesh.coordinate(first.shard_axis());
  if (first.is_fp32()) {
    options.compute = DType::f32;
    options.gradients = DType::f32;
    options.with_master = true;
  }
  if (first.is_buffer()) {
    options.with_optimizer_states = false;
    options.stage = 0;
    options.num_shards = 1;
    options.shard = 0;
  }
  return options;
}

}  // namespace trireme
