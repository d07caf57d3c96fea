// What the processor (and the operating system, which must save the registers) offers to our kernels.
// Thread safety: a constant after the first call.
#pragma once

#include <string>

namespace trireme {

struct CpuFeatures {
  bool avx2 = false;         // with FMA and F16C: the least that the program is built for
  bool avx512 = false;       // F, BW, CD, DQ, VL: the level x86-64-v4
  bool avx512_bf16 = false;  // dot products of bf16 pairs
  bool amx_bf16 = false;     // matrix tiles of bf16

  // True where multiplying bf16 matrices is faster than multiplying fp32 ones; `precision.compute: auto` follows it.
  bool has_fast_bf16() const { return avx512_bf16 || amx_bf16; }
  std::string str() const;  // "avx2 avx512 avx512_bf16"
  bool operator==(const CpuFeatures&) const = default;
};

// Of the machine that we run on.
const CpuFeatures& cpu_features();

}  // namespace trireme
