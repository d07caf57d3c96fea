// Sends a call of an op to the implementation for the stream's device.
#pragma once

#include "core/device/device.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cuda/kernels.h"

// TRIREME_DISPATCH(stream, f(args…)): calls cpu::f or cuda::f.
#define TRIREME_DISPATCH(stream, call)                          \
  do {                                                          \
    if ((stream).device().type == ::trireme::DeviceType::cpu) { \
      ::trireme::cpu::call;                                     \
    } else {                                                    \
      ::trireme::cuda::call;                                    \
    }                                                           \
  } while (false)
