// The rate of matrix multiplication that this machine reaches at best, to print what share of it a run uses.
#pragma once

#include "core/tensor/dtype.h"

namespace trireme {

class ThreadPool;

namespace cpu {

// The best rate, in GFLOP/s (a multiplication and an addition are two), of all threads of the pool together, each
// multiplying square matrices of a size that suits its caches with `gemm_serial`. Inputs of type `dtype` (f32 or
// bf16), f32 result. Takes about 40 ms, and as much more when it is the first multiplication of the
// process. It is a measurement, for display only: nothing may be decided by it.
double measure_peak_gflops(ThreadPool& pool, DType dtype);

}  // namespace cpu
}  // namespace trireme
