// What an allocator throws when the device has no more memory.
#pragma once

#include "core/error.h"

namespace trireme {

struct OutOfMemory : MachineError {
  using MachineError::MachineError;
};

}  // namespace trireme
