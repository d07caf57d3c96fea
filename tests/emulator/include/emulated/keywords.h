// Keywords and built-in variables of device code.
#pragma once

#include "vector_types.h"

#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// The threads of a block are fibers of one host thread, so what is thread-local to that is shared by the block. At
// block scope thread_local implies static. The tags become part of the mangled names: in the symbol table of the
// program the emulator finds each kernel and, to fill them before every block, its shared variables.
#define __global__ __attribute__((abi_tag("kernel")))
#define __shared__ thread_local __attribute__((abi_tag("shared")))

// All dynamic shared memory has this one name. The declaration compiles with nvcc as well, and is the only spelling
// that works with both; launch.h of core/device/cuda has it.
extern __shared__ __align__(16) unsigned char trireme_dynamic_shared[];

extern __thread __attribute__((tls_model("initial-exec"))) uint3 threadIdx;
extern __thread __attribute__((tls_model("initial-exec"))) uint3 blockIdx;
extern __thread __attribute__((tls_model("initial-exec"))) dim3 blockDim;
extern __thread __attribute__((tls_model("initial-exec"))) dim3 gridDim;
