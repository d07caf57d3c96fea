// Marks the per-element mathematics that both the host compiler and a CUDA compiler read, and std::bit_cast for it, which
// a CUDA compiler takes for a function of the host.
#pragma once

#ifdef __CUDACC__
#define TRIREME_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRIREME_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace trireme {

template <class To, class From>
TRIREME_HOST_DEVICE constexpr To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

}  // namespace trireme
