#include "parallel/zero/weight_groups.h"

#include <algorithm>
#include <utility>

namespace trireme {

namespace {

struct Key {
  AxisSet partial;
  AxisSet split;
  bool operator==(const Key&) const = default;
};

Key key_of(const Parameter& parameter, const Mesh& mesh) {
  Key key;
  for (int i = 0; i < kNumAxes; ++i) {
    const Axis axis = static_cast<Axis>(i);
    if (mesh.degree(axis) == 1) continue;
    if (parameter.gradient_placement[axis].kind == AxisPlacement::Kind::partial) key.partial.insert(axis);
    if (parameter.placement[axis].kind == AxisPlacement::Kind::split) key.split.insert(axis);
  }
  return key;
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

}  // namespace trireme
