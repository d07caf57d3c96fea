// What happens around a unit: its parameters are gathered before it runs and freed after, its gradients are reduced when
// they are complete. The stage runner calls these; how long full buffers live is the implementation's matter (ZeRO).
//
// Units are named by their number in the list of all units of the rank, chunk by chunk. All calls queue work on `stream`
// or beside it; none makes the host wait for the device.
#pragma once

#include <cstddef>

#include "core/device/device.h"
#include "core/tensor/tensor.h"

namespace trireme {

class UnitHooks {
 public:
  virtual ~UnitHooks() = default;

  // From here on the values of the unit's weights can be read by work on `stream`; with gradients, also those can be
  // written by units that make them in forward (the loss head).
  virtual void before_forward(size_t unit, bool with_gradients, Stream& stream) = 0;
  // What the unit gave, for those who want to look at it; comes before `after_forward`.
  virtual void saw_output(size_t, const Tensor&) {}
  // The values aren't read again before `before_backward`. With gradients, those of a unit that makes them in forward are
  // complete for one more microbatch.
  virtual void after_forward(size_t unit, bool with_gradients, Stream& stream) = 0;
  // Values can be read again (recomputation, backward_input).
  virtual void before_backward(size_t unit, Stream& stream) = 0;
  // The values aren't read again for this microbatch.
  virtual void after_backward_input(size_t unit, Stream& stream) = 0;
  // Gradients can be written or added to.
  virtual void before_backward_weight(size_t unit, Stream& stream) = 0;
  // The unit's gradients of one more microbatch are complete; microbatches come in order.
  virtual void after_backward_weight(size_t unit, Stream& stream) = 0;
};

// For weights that are there, and gradients that nobody waits for.
class NoHooks final : public UnitHooks {
 public:
  void before_forward(size_t, bool, Stream&) override {}
  void after_forward(size_t, bool, Stream&) override {}
  void before_backward(size_t, Stream&) override {}
  void after_backward_input(size_t, Stream&) override {}
  void before_backward_weight(size_t, Stream&) override {}
  void after_backward_weight(size_t, Stream&) override {}
};

}  // namespace trireme
