// Marks the per-element mathematics that both the host compiler and a CUDA compiler read.
#pragma once

#ifdef __CUDACC__
#define TRIREME_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRIREME_HOST_DEVICE inline __attribute__((always_inline))
#endif
