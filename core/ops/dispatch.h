// Sends a call of an op to the implementation for the stream's device.
#pragma once

#include "core/device/device.h"

namespace trireme::ops {

// Throws MachineError: this program was built without CUDA.
[[noreturn]] void fail_no_cuda();

}  // namespace trireme::ops

// TRIREME_DISPATCH(stream, f(args…)): calls cpu::f or cuda::f.
#define TRIREME_DISPATCH(stream, call)                          \
  do {                                                          \
    if ((stream).device().type == ::trireme::DeviceType::cpu) { \
      ::trireme::cpu::call;                                     \
    } else {                                                    \
      ::trireme::ops::fail_no_cuda();                           \
    }                                                           \
  } while (false)
