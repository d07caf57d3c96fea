// The mesh: how the ranks of a run are laid out along the axes of parallelism. An immutable value.
//
// Dense layers see tensor (fastest), context, data_shard, data_replica, pipeline. Expert layers fold the same ranks of
// one pipeline stage into expert_tensor (fastest), expert, expert_shard, expert_replica; the last two are to experts what
// data_shard and data_replica are to dense layers. The data degree is data_shard × data_replica.
//
// Where expert_tensor × expert divides a replica's ranks, tensor × context × data_shard, a replica of experts lies in a
// replica of the dense layers: expert_shard is the quotient, expert_replica = data_replica. Else experts lie across
// replicas, and nothing of theirs is sharded: expert_shard = 1.
// "Axis" is of the mesh, "dim" of a tensor. Every call is O(degree of what is asked), so a mesh of a million ranks is
// cheap.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace trireme {

enum class Axis : uint8_t {
  tensor,
  context,
  data_shard,
  data_replica,
  pipeline,
  expert_tensor,
  expert,
  expert_shard,
  expert_replica,
};
inline constexpr int kNumAxes = 9;
std::string axis_name(Axis axis);

// A set of axes.
class AxisSet {
 public:
  constexpr AxisSet() = default;
  constexpr AxisSet(std::initializer_list<Axis> axes) {
    for (const Axis axis : axes) bits_ |= 1u << static_cast<unsigned>(axis);
  }
  constexpr bool contains(Axis axis) const { return (bits_ >> static_cast<unsigned>(axis)) & 1u; }
  constexpr void insert(Axis axis) { bits_ |= 1u << static_cast<unsigned>(axis); }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr AxisSet operator|(AxisSet other) const {
    AxisSet both;
    both.bits_ = bits_ | other.bits_;
    return both;
  }
  constexpr AxisSet without(AxisSet other) const {
    AxisSet rest;
    rest.bits_ = bits_ & ~other.bits_;
    return rest;
  }
  constexpr auto operator<=>(const AxisSet&) const = default;

 private:
  unsigned bits_ = 0;
};

inline constexpr AxisSet kDataAxes{Axis::data_shard, Axis::data_replica};
inline constexpr AxisSet kExpertDataAxes{Axis::expert_shard, Axis::expert_replica};
// The ranks that hold all experts of a layer once: those among whom tokens travel to their experts.
inline constexpr AxisSet kDispatchAxes{Axis::expert_tensor, Axis::expert};
inline constexpr AxisSet kDenseAxes{Axis::tensor, Axis::context, Axis::data_shard, Axis::data_replica, Axis::pipeline};

class Mesh {
 public:
  struct Degrees {
    int64_t tensor = 1;
    int64_t context = 1;
    int64_t data_shard = 1;
    int64_t data_replica = 1;
    int64_t pipeline = 1;
    int64_t expert = 1;
    int64_t expert_tensor = 1;
  };

  // REQUIRES: all degrees >= 1 and 0 <= rank < their product (expert degrees fold and don't count);
  // expert_tensor·expert divides tensor·context·data. User input is checked by `resolve`.
  Mesh(const Degrees& degrees, int64_t rank);

  int64_t rank() const { return rank_; }
  int64_t world_size() const;
  int64_t degree(Axis axis) const;
  int64_t coordinate(Axis axis) const;

  // World ranks that share every coordinate of this rank except those of `axes`, fastest axis first; contains this
  // rank.
  // REQUIRES: `axes` has no dense and expert axes together (pipeline goes with both).
  std::vector<int64_t> group(AxisSet axes) const;
  int64_t group_size(AxisSet axes) const;
  int64_t group_rank(AxisSet axes) const;  // this rank's place in group(axes)

  // The mesh as the rank sees it that has `coordinate` on this axis, and else the same coordinates.
  Mesh at(Axis axis, int64_t coordinate) const;

  int64_t data_degree() const { return group_size(kDataAxes); }
  int64_t data_rank() const { return group_rank(kDataAxes); }

  // "data 2 × tensor 4 = 8 ranks"; with expert degrees above 1 ", experts: expert 4 × expert_tensor 2 × data 1" behind it
  std::string str() const;

 private:
  int64_t stride(Axis axis) const;

  Degrees degrees_;
  int64_t rank_;
};

}  // namespace trireme
