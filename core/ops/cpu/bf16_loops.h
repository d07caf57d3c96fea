// Loops over bf16 elements that are worth the CPU's own instructions: what the compiler makes of the plain loops rounds
// to bf16 in eight instructions, AVX512-BF16 in one, and an exponential for a bf16 result needs fewer terms.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/tensor/dtype.h"

namespace trireme::cpu {

// The loops of activation.cc and rotary.cc by their names there.
struct Bf16Loops {
  void (*gelu_tanh_range)(const bf16* x, bf16* y, int64_t n);
  void (*gelu_tanh_grad_range)(const bf16* dy, const bf16* x, bf16* dx, int64_t n);
  void (*swiglu_rows)(const bf16* gate_up, bf16* y, int64_t rows, int64_t columns);
  void (*swiglu_grad_rows)(const bf16* dy, const bf16* gate_up, bf16* dgate_up, int64_t rows, int64_t columns);
  void (*rotate_row)(bf16* row, const float* cos, const float* sin, float sign, int64_t num_heads, int64_t half);
};

extern const Bf16Loops kBf16LoopsAvx512;

// Those of this machine, or null.
const Bf16Loops* bf16_loops();

// The loop to run: the machine's own where it has one for elements of this type, else the plain one.
template <class Loop, class Member>
Loop* loop_for(Loop* plain, Member own) {
  if constexpr (std::is_same_v<Member, Loop * Bf16Loops::*>) {
    if (const Bf16Loops* loops = bf16_loops()) return loops->*own;
  }
  return plain;
}

}  // namespace trireme::cpu
