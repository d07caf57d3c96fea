// Where the elements of a global tensor lie: for each mesh axis it is split along a dim, replicated, held (whole, by the
// ranks of one coordinate; the others have nothing of it) or partial (each rank holds a summand of the value). Reductions, sharding and
// checkpoints are derived from placements.
#pragma once

#include <array>
#include <cstdint>

#include "parallel/mesh.h"

namespace trireme {

struct AxisPlacement {
  enum class Kind : uint8_t { replicated, split, held, partial };
  Kind kind = Kind::replicated;
  int dim = 0;  // of the tensor; for split only

  bool operator==(const AxisPlacement&) const = default;
};

class Placement {
 public:
  const AxisPlacement& operator[](Axis axis) const { return axes_[static_cast<size_t>(axis)]; }

  Placement& split(Axis axis, int dim) {
    axes_[static_cast<size_t>(axis)] = {AxisPlacement::Kind::split, dim};
    return *this;
  }
  Placement& hold(Axis axis) {
    axes_[static_cast<size_t>(axis)] = {AxisPlacement::Kind::held, 0};
    return *this;
  }
  Placement& partial(Axis axis) {
    axes_[static_cast<size_t>(axis)] = {AxisPlacement::Kind::partial, 0};
    return *this;
  }

  // The axes over which a sum is still owed.
  AxisSet partial_axes() const;
  // The axes along which ranks hold different elements: split, or held.
  AxisSet cut_axes() const;

  bool operator==(const Placement&) const = default;

 private:
  std::array<AxisPlacement, kNumAxes> axes_{};
};

}  // namespace trireme
