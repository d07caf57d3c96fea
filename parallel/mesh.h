// The mesh: how the ranks of a run are laid out along the axes of parallelism. An immutable value.
//
// Dense layers see tensor (fastest), context, data_shard, data_replica, pipeline. Expert layers fold the same ranks of
// one pipeline stage into expert_tensor (fastest), expert, expert_data. The data degree is data_shard × data_replica.
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
  expert,
  expert_data,
  expert_tensor,
};
inline constexpr int kNumAxes = 8;
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

  // "data 2 × tensor 4 × pipeline 1 = 8 ranks"
  std::string str() const;

 private:
  int64_t stride(Axis axis) const;

  Degrees degrees_;
  int64_t rank_;
};

}  // namespace trireme
