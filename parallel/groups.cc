#include "parallel/groups.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"

namespace trireme {

namespace {

struct NamedAxes {
  AxisSet axes;
  const char* name;
};

const NamedAxes kGroups[] = {
    {{Axis::tensor}, "tensor"},
    {{Axis::data_shard}, "data_shard"},
    {{Axis::data_replica}, "data_replica"},
    {kDataAxes, "data"},
    {kDenseAxes, "world"},
};

const NamedAxes kExpertGroups[] = {
    {{Axis::expert_shard}, "expert_shard"},
    {{Axis::expert_replica}, "expert_replica"},
    {kDispatchAxes, "experts"},
};

std::vector<int> to_int(const std::vector<int64_t>& ranks) { return {ranks.begin(), ranks.end()}; }

}  // namespace

Groups::Groups(const Mesh& mesh, bool ring, const Factory& make, bool experts) : mesh_(mesh) {
  const auto add = [&](const NamedAxes& group) {
    groups_[group.axes] = make(to_int(mesh.group(group.axes)), group.name);
  };
  for (const NamedAxes& group : kGroups) add(group);
  if (experts) {
    for (const NamedAxes& group : kExpertGroups) add(group);
  }

  const std::vector<int64_t> stages = mesh.group({Axis::pipeline});
  const auto p = static_cast<int64_t>(stages.size());
  const int64_t mine = mesh.coordinate(Axis::pipeline);
  std::set<std::pair<int64_t, int64_t>> ways;
  for (int64_t s = 0; s < (ring ? p : p - 1); ++s) {
    const int64_t next = (s + 1) % p;
    if (next == s) continue;
    ways.insert({s, next});
    ways.insert({next, s});
  }
  for (const auto& [from, to] : ways) {
    const bool takes_part = from == mine || to == mine;
    std::vector<int> pair;
    if (takes_part)
      pair = {static_cast<int>(stages[static_cast<size_t>(from)]), static_cast<int>(stages[static_cast<size_t>(to)])};
    auto way = make(pair, "stage " + std::to_string(from) + " to " + std::to_string(to));
    if (from == mine)
      to_[to] = std::move(way);
    else if (to == mine)
      from_[from] = std::move(way);
  }
  std::vector<int> ends{static_cast<int>(mesh.rank())};
  if (p > 1 && (mine == 0 || mine == p - 1)) ends = {static_cast<int>(stages.front()), static_cast<int>(stages.back())};
  ends_ = make(ends, "first and last stage");
}

Communicator& Groups::of(AxisSet axes) const {
  const auto found = groups_.find(axes);
  TRIREME_CHECK(found != groups_.end(), "no communicator over these axes");
  return *found->second;
}

Communicator& Groups::channel_to(int64_t stage) const {
  const auto found = to_.find(stage);
  TRIREME_CHECK(found != to_.end(), "no way to that stage");
  return *found->second;
}

Communicator& Groups::channel_from(int64_t stage) const {
  const auto found = from_.find(stage);
  TRIREME_CHECK(found != from_.end(), "no way from that stage");
  return *found->second;
}

}  // namespace trireme
