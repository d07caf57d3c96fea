// Whoever wants to see what routers decide (comparisons of layouts).
#pragma once

#include "parallel/unit.h"

namespace trireme {

class RoutingWatch {
 public:
  virtual ~RoutingWatch() = default;
  // A decision of a training step on this rank's rows, the microbatch's tokens from `first_row` on. `layer` counts those with
  // experts. scores f32 [n, E]; bias f32 [E], added for the selection, may be undefined; experts i32 [n, K].
  virtual void saw(Stream& stream, int64_t layer, const Microbatch& microbatch, int64_t first_row, const Tensor& scores,
                   const Tensor& bias, const Tensor& experts) = 0;
};

}  // namespace trireme
