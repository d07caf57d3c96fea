#include "parallel/mesh.h"

#include <array>

#include "core/error.h"

namespace trireme {

namespace {

constexpr std::array<Axis, 5> kDense{Axis::tensor, Axis::context, Axis::data_shard, Axis::data_replica, Axis::pipeline};
constexpr std::array<Axis, 5> kExpert{Axis::expert_tensor, Axis::expert, Axis::expert_shard, Axis::expert_replica,
                                      Axis::pipeline};

bool is_expert(Axis axis) { return (kDispatchAxes | kExpertDataAxes).contains(axis); }

}  // namespace

std::string axis_name(Axis axis) {
  switch (axis) {
    case Axis::tensor: return "tensor";
    case Axis::context: return "context";
    case Axis::data_shard: return "data_shard";
    case Axis::data_replica: return "data_replica";
    case Axis::pipeline: return "pipeline";
    case Axis::expert_tensor: return "expert_tensor";
    case Axis::expert: return "expert";
    case Axis::expert_shard: return "expert_shard";
    case Axis::expert_replica: return "expert_replica";
  }
  return "?";
}

Mesh::Mesh(const Degrees& degrees, int64_t rank) : degrees_(degrees), rank_(rank) {
  for (const Axis axis : kDense) TRIREME_CHECK(degree(axis) >= 1);
  for (const Axis axis : {Axis::expert_tensor, Axis::expert}) TRIREME_CHECK(degree(axis) >= 1);
  TRIREME_CHECK(rank >= 0 && rank < world_size());
  const int64_t stage = degrees.tensor * degrees.context * degrees.data_shard * degrees.data_replica;
  TRIREME_CHECK(stage % (degrees.expert_tensor * degrees.expert) == 0);
}

int64_t Mesh::world_size() const {
  return degrees_.tensor * degrees_.context * degrees_.data_shard * degrees_.data_replica * degrees_.pipeline;
}

int64_t Mesh::degree(Axis axis) const {
  const Degrees& d = degrees_;
  const int64_t replica = d.tensor * d.context * d.data_shard;  // ranks of one
  const int64_t experts = d.expert_tensor * d.expert;
  const bool inside = replica % experts == 0;
  switch (axis) {
    case Axis::tensor: return d.tensor;
    case Axis::context: return d.context;
    case Axis::data_shard: return d.data_shard;
    case Axis::data_replica: return d.data_replica;
    case Axis::pipeline: return d.pipeline;
    case Axis::expert_tensor: return d.expert_tensor;
    case Axis::expert: return d.expert;
    case Axis::expert_shard: return inside ? replica / experts : 1;
    case Axis::expert_replica: return inside ? d.data_replica : replica * d.data_replica / experts;
  }
  return 1;
}

int64_t Mesh::stride(Axis axis) const {
  int64_t stride = 1;
  if (is_expert(axis)) {
    for (const Axis a : kExpert) {
      if (a == axis) break;
      stride *= degree(a);
    }
  } else {
    for (const Axis a : kDense) {
      if (a == axis) break;
      stride *= degree(a);
    }
  }
  return stride;
}

int64_t Mesh::coordinate(Axis axis) const { return rank_ / stride(axis) % degree(axis); }

Mesh Mesh::at(Axis axis, int64_t coordinate) const {
  TRIREME_CHECK(coordinate >= 0 && coordinate < degree(axis));
  return Mesh(degrees_, rank_ + (coordinate - this->coordinate(axis)) * stride(axis));
}

std::vector<int64_t> Mesh::group(AxisSet axes) const {
  bool dense = false;
  bool expert = false;
  std::vector<int64_t> ranks{rank_};
  const auto expand = [&](Axis axis) {
    if (!axes.contains(axis)) return;
    if (axis != Axis::pipeline) (is_expert(axis) ? expert : dense) = true;
    const int64_t step = stride(axis);
    for (int64_t& r : ranks) r -= coordinate(axis) * step;
    const size_t inner = ranks.size();
    for (int64_t i = 1; i < degree(axis); ++i) {
      for (size_t j = 0; j < inner; ++j) ranks.push_back(ranks[j] + i * step);
    }
  };
  for (const Axis axis : kExpert) {
    if (axis != Axis::pipeline) expand(axis);
  }
  for (const Axis axis : kDense) expand(axis);
  TRIREME_CHECK(!(dense && expert), "a group of dense and expert axes together");
  return ranks;
}

int64_t Mesh::group_size(AxisSet axes) const {
  int64_t size = 1;
  for (int i = 0; i < kNumAxes; ++i) {
    if (axes.contains(static_cast<Axis>(i))) size *= degree(static_cast<Axis>(i));
  }
  return size;
}

int64_t Mesh::group_rank(AxisSet axes) const {
  int64_t place = 0;
  int64_t size = 1;
  const auto add = [&](Axis axis) {
    if (!axes.contains(axis)) return;
    place += coordinate(axis) * size;
    size *= degree(axis);
  };
  for (const Axis axis : kExpert) {
    if (axis != Axis::pipeline) add(axis);
  }
  for (const Axis axis : kDense) add(axis);
  return place;
}

std::string Mesh::str() const {
  std::string out = "data " + std::to_string(data_degree());
  const auto add = [&](Axis axis) {
    if (degree(axis) > 1) out += " × " + axis_name(axis) + " " + std::to_string(degree(axis));
  };
  for (const Axis axis : {Axis::tensor, Axis::context, Axis::pipeline}) add(axis);
  out += " = " + std::to_string(world_size()) + (world_size() == 1 ? " rank" : " ranks");
  if (group_size(kDispatchAxes) == 1) return out;
  out += ", experts: expert " + std::to_string(degree(Axis::expert));
  add(Axis::expert_tensor);
  return out + " × data " + std::to_string(group_size(kExpertDataAxes));
}

}  // namespace trireme
