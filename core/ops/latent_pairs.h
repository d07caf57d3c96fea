// One pair of a rotated head part, as CPU and GPU turn it.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "core/ops/math.h"

namespace trireme::math {

// (a, b) -> (a·cos − b·sin, b·cos + a·sin), between memory of any float type.
template <class From, class To>
TRIREME_HOST_DEVICE void rotate_pair(const From* from, float cos, float sin, To* to) {
  const float a = load(from);
  const float b = load(from + 1);
  store(to, std::fma(a, cos, -(b * sin)));
  store(to + 1, std::fma(b, cos, a * sin));
}

}  // namespace trireme::math
