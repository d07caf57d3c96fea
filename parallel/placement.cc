#include "parallel/placement.h"

namespace trireme {

AxisSet Placement::partial_axes() const {
  AxisSet axes;
  for (int i = 0; i < kNumAxes; ++i) {
    const Axis axis = static_cast<Axis>(i);
    if ((*this)[axis].kind == AxisPlacement::Kind::partial) axes.insert(axis);
  }
  return axes;
}

}  // namespace trireme
