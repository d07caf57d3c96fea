// Per-element mathematics of the ops, in fp32, read by the host compiler and by a CUDA compiler.
//
// Everything is branch-free, so that loops over it become vector code, and says `std::fma` where a compiler could
// choose, so that an element has the same bits in a vector and in the rest of a loop. Infinite and NaN inputs give what
// IEEE 754 gives unless a function says otherwise: a NaN is never swallowed.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/random/philox.h"
#include "core/tensor/dtype.h"

namespace trireme::math {

TRIREME_HOST_DEVICE float load(const float* p) { return *p; }
TRIREME_HOST_DEVICE float load(const bf16* p) { return bit_cast<float>(static_cast<uint32_t>(p->bits) << 16); }
TRIREME_HOST_DEVICE void store(float* p, float value) { *p = value; }
TRIREME_HOST_DEVICE void store(bf16* p, float value) { p->bits = bf16::round(value); }

// Rounds to bf16 up or down by 16 random bits, so that the mean over all of them is the value: towards ±∞ with the
// probability of (distance from the bf16 below, in magnitude) / (distance between the two). A value that bf16 holds
// stays; infinity and NaN stay; above the largest bf16 the upper neighbour is infinity, as for rounding to nearest.
TRIREME_HOST_DEVICE uint16_t round_stochastic(float value, uint32_t bits) {
  const uint32_t x = bit_cast<uint32_t>(value);
  const uint32_t quiet = x | 0x00400000u;
  return static_cast<uint16_t>((value != value ? quiet : x + (bits & 0xFFFFu)) >> 16);
}
TRIREME_HOST_DEVICE void store_stochastic(bf16* p, float value, uint32_t bits) {
  p->bits = round_stochastic(value, bits);
}
TRIREME_HOST_DEVICE void store_stochastic(float* p, float value, uint32_t) { *p = value; }

// What of an element is rounded: each has draws of its own.
enum class Rounded : uint8_t { weight, first_moment, second_moment };

// The draws for elements 8·group … 8·group + 7 of the parameter with this key (random_key(seed, name)) in update
// `step` >= 1: element 8·group + i takes half_word(block, i). Other uses of the key take streams 0 to 3.
TRIREME_HOST_DEVICE PhiloxBlock rounding_block(uint64_t key, int64_t step, Rounded what, int64_t group) {
  return philox4x32(key, static_cast<uint64_t>(group),
                    (static_cast<uint64_t>(step) << 2) | static_cast<uint64_t>(what));
}
// The same for one element.
TRIREME_HOST_DEVICE uint32_t rounding_draw(uint64_t key, int64_t step, Rounded what, int64_t element) {
  return half_word(rounding_block(key, step, what, element >> 3), static_cast<int>(element & 7));
}

// What the functions over a value V say of it: V is a float, or a vector of floats that has the same by these names
// (core/ops/cpu/lanes_avx512_bf16.h).
TRIREME_HOST_DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
TRIREME_HOST_DEVICE float at_least(float low, float x) { return x < low ? low : x; }
TRIREME_HOST_DEVICE float at_most(float high, float x) { return x > high ? high : x; }

// (a, b), turned by the angle that has this cosine and sine.
template <class V>
struct Turned {
  V a;
  V b;
};

template <class V>
TRIREME_HOST_DEVICE Turned<V> turn(V a, V b, V cos, V sin) {
  return {fma(a, cos, -(b * sin)), fma(b, cos, a * sin)};
}

// eˣ to 1.5 ulp for −88 <= x <= 88; results below 2⁻¹²⁶·0.7 are 0.
TRIREME_HOST_DEVICE float exp_between(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693145752f;  // 16 bits, so that n · kLn2High is exact
  constexpr float kLn2Low = 1.42860677e-6f;
  constexpr float kRound = 12582912.0f;  // 1.5·2²³: adding it leaves the nearest integer in the low bits
  const float shifted = std::fma(x, kLog2E, kRound);
  const float n = shifted - kRound;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  // eʳ on |r| <= ln 2 / 2, minimax, relative error 3e-9.
  float p = 0x1.6a23ccp-10f;
  p = std::fma(p, r, 0x1.123a2p-7f);
  p = std::fma(p, r, 0x1.5558f2p-5f);
  p = std::fma(p, r, 0x1.555492p-3f);
  p = std::fma(p, r, 0x1.fffffcp-2f);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  const uint32_t exponent = (bit_cast<uint32_t>(shifted) + 127u) << 23;  // 2ⁿ, or 0 for n = −127
  return p * bit_cast<float>(exponent);
}

// eˣ for x <= 0, −∞ included.
TRIREME_HOST_DEVICE float exp_of_nonpositive(float x) { return exp_between(x < -88.0f ? -88.0f : x); }

// Where the exponentials and reciprocals of the functions below come from: these have the same bits on every CPU. A GPU
// has units of its own, good enough for results that are rounded to bf16 (core/ops/cuda/fast_math.h).
struct Portable {
  TRIREME_HOST_DEVICE static float exp(float x) { return exp_between(x); }
  TRIREME_HOST_DEVICE static float reciprocal(float x) { return 1.0f / x; }
};

// σ(x) = 1 / (1 + e⁻ˣ) and 1 − σ(x), each to 3 ulp; not below 5e-38.
template <class V>
struct Sigmoid {
  V value;
  V complement;
};

template <class Unit = Portable, class V>
TRIREME_HOST_DEVICE Sigmoid<V> sigmoid(V x) {
  x = at_most(88.0f, at_least(-86.0f, x));
  const V e = Unit::exp(-x);
  const V s = Unit::reciprocal(1.0f + e);
  return {s, e * s};
}

// silu(x) = x · σ(x).
template <class Unit = Portable, class V>
TRIREME_HOST_DEVICE V silu(V x) {
  return x * sigmoid<Unit>(x).value;
}

// The gradients of silu(gate) · up.
template <class V>
struct SwigluGrad {
  V gate;
  V up;
};

template <class Unit = Portable, class V>
TRIREME_HOST_DEVICE SwigluGrad<V> swiglu_grad(V dy, V gate, V up) {
  const Sigmoid<V> s = sigmoid<Unit>(gate);
  const V slope = s.value * fma(gate, s.complement, 1.0f);
  return {dy * up * slope, dy * (gate * s.value)};
}

// gelu with tanh: 0.5·(1 + tanh u) = σ(2u), so that no digits cancel at negative x.
inline constexpr float kGeluLinear = 1.59576912f;   // 2·√(2/π)
inline constexpr float kGeluCubic = 0.0713548163f;  // 2·√(2/π)·0.044715

template <class Unit = Portable, class V>
TRIREME_HOST_DEVICE V gelu_tanh(V x) {
  return x * sigmoid<Unit>(x * fma(x * x, kGeluCubic, kGeluLinear)).value;
}

template <class Unit = Portable, class V>
TRIREME_HOST_DEVICE V gelu_tanh_slope(V x) {
  const V square = x * x;
  const Sigmoid<V> s = sigmoid<Unit>(x * fma(square, kGeluCubic, kGeluLinear));
  const V inner = x * fma(square, 3.0f * kGeluCubic, kGeluLinear);
  return s.value * fma(inner, s.complement, 1.0f);
}

// Φ(x) = 0.5·(1 + erf(x/√2)), relative error 4.5e-7 down to x = −13, and e^(−x²/2); |x| counts as 13 beyond.
struct NormalCdf {
  float value;
  float bell;
};

template <class Unit = Portable>
TRIREME_HOST_DEVICE NormalCdf normal_cdf(float x) {
  float z = std::fabs(x);
  z = z > 13.0f ? 13.0f : z;
  const float square = z * z;
  const float rest = std::fma(z, z, -square);  // what rounding took from z²: at z = 10 it is 3e-6 of the result
  const float e = Unit::exp(-0.5f * square);
  const float bell = std::fma(e, -0.5f * rest, e);
  // Φ(−z) = e^(−z²/2) · t · p(t), t = 1 / (1 + 0.28·z): minimax on 0 <= z <= 13.4, relative error 6e-8.
  const float t = Unit::reciprocal(std::fma(0.28f, z, 1.0f));
  float p = 0.0224352926f;
  p = std::fma(p, t, -0.0816074014f);
  p = std::fma(p, t, 0.0660865903f);
  p = std::fma(p, t, 0.0251438897f);
  p = std::fma(p, t, 0.050230667f);
  p = std::fma(p, t, 0.0933973789f);
  p = std::fma(p, t, 0.100584812f);
  p = std::fma(p, t, 0.112044528f);
  p = std::fma(p, t, 0.11168427f);
  const float tail = bell * (t * p);
  return {x < 0.0f ? tail : 1.0f - tail, bell};
}

template <class Unit = Portable>
TRIREME_HOST_DEVICE float gelu_erf(float x) {
  return x * normal_cdf<Unit>(x).value;
}

template <class Unit = Portable>
TRIREME_HOST_DEVICE float gelu_erf_slope(float x) {
  constexpr float kInvSqrt2Pi = 0.398942280f;
  const NormalCdf phi = normal_cdf<Unit>(x);
  return std::fma(x * phi.bell, kInvSqrt2Pi, phi.value);
}

// One element of AdamW with the constants of a step.
struct AdamWStep {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float eps;
  float rate;               // lr / (1 − beta1^step)
  float inv_sqrt_correct2;  // 1 / √(1 − beta2^step)
  float decay;              // lr · weight_decay
};

struct AdamWState {
  float master;
  float m;
  float v;
};

TRIREME_HOST_DEVICE AdamWState adamw(const AdamWStep& step, float grad, const AdamWState& old) {
  AdamWState s;
  s.m = std::fma(step.beta1, old.m, step.one_minus_beta1 * grad);
  s.v = std::fma(step.beta2, old.v, step.one_minus_beta2 * grad * grad);
  const float denominator = std::fma(std::sqrt(s.v), step.inv_sqrt_correct2, step.eps);
  // The change is summed before it meets the weight: one rounding at the weight's magnitude.
  const float change = std::fma(step.decay, old.master, step.rate * (s.m / denominator));
  s.master = old.master - change;
  return s;
}

}  // namespace trireme::math
