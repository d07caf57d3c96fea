// Communication that was not hidden: the stretches of a stream's time in which it waited for a collective.
#pragma once

#include <vector>

#include "core/device/device.h"
#include "parallel/comm/communicator.h"

namespace trireme {

class ExposedTime {
 public:
  // Lets `stream` wait for `work`, and notes from when to when.
  void wait(Work& work, Stream& stream);
  void add(ExposedTime other);
  // REQUIRES: the device has passed all of them.
  double seconds() const;

 private:
  std::vector<Interval> waits_;
};

}  // namespace trireme
