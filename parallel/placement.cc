#include "parallel/placement.h"

namespace trireme {

namespace {

AxisSet axes_of(const Placement& placement, AxisPlacement::Kind kind) {
  AxisSet axes;
  for (int i = 0; i < kNumAxes; ++i) {
    const Axis axis = static_cast<Axis>(i);
    if (placement[axis].kind == kind) axes.insert(axis);
  }
  return axes;
}

}  // namespace

AxisSet Placement::partial_axes() const { return axes_of(*this, AxisPlacement::Kind::partial); }

AxisSet Placement::cut_axes() const {
  return axes_of(*this, AxisPlacement::Kind::split) | axes_of(*this, AxisPlacement::Kind::held);
}

}  // namespace trireme
