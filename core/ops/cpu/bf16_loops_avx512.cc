// The loops of bf16_loops.h for AVX512-BF16. Everything after the pragma is compiled for it, so headers of others come
// before. Rows are fetched one ahead: the CPU's own prefetcher begins anew at each.
#include <immintrin.h>

#include <array>
#include <cmath>
#include <cstdint>

#pragma GCC target("arch=x86-64-v4,avx512bf16")
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "core/ops/cpu/bf16_loops.h"
#include "core/ops/cpu/lanes_avx512_bf16.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

void gelu_tanh_range(const bf16* x, bf16* y, int64_t n) {
  for_lanes(n, [&](auto at) { at.store(y, math::gelu_tanh<FastLanes>(at.load(x))); });
}

void gelu_tanh_grad_range(const bf16* dy, const bf16* x, bf16* dx, int64_t n) {
  for_lanes(n, [&](auto at) { at.store(dx, at.load(dy) * math::gelu_tanh_slope<FastLanes>(at.load(x))); });
}

void swiglu_rows(const bf16* gate_up, bf16* y, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const bf16* gate = gate_up + r * 2 * columns;
    const bf16* up = gate + columns;
    bf16* out = y + r * columns;
    for_lanes(columns, [&](auto at) {
      at.prefetch(gate + 2 * columns);
      at.prefetch(up + 2 * columns);
      at.store(out, math::silu<FastLanes>(at.load(gate)) * at.load(up));
    });
  }
}

void swiglu_grad_rows(const bf16* dy, const bf16* gate_up, bf16* dgate_up, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const bf16* gate = gate_up + r * 2 * columns;
    const bf16* up = gate + columns;
    const bf16* d = dy + r * columns;
    bf16* dgate = dgate_up + r * 2 * columns;
    bf16* dup = dgate + columns;
    for_lanes(columns, [&](auto at) {
      at.prefetch(gate + 2 * columns);
      at.prefetch(up + 2 * columns);
      at.prefetch(d + columns);
      const auto grad = math::swiglu_grad<FastLanes>(at.load(d), at.load(gate), at.load(up));
      at.store(dgate, grad.gate);
      at.store(dup, grad.up);
    });
  }
}

void rotate_row(bf16* row, const float* cos, const float* sin, float sign, int64_t num_heads, int64_t half) {
  for (int64_t h = 0; h < num_heads; ++h) {
    bf16* a = row + h * 2 * half;
    bf16* b = a + half;
    for_lanes(half, [&](auto at) {
      const auto pair = math::turn(at.load(a), at.load(b), at.load(cos), Lanes16(sign) * at.load(sin));
      at.store(a, pair.a);
      at.store(b, pair.b);
    });
  }
}

}  // namespace

constinit const Bf16Loops kBf16LoopsAvx512 = {.gelu_tanh_range = gelu_tanh_range,
                                              .gelu_tanh_grad_range = gelu_tanh_grad_range,
                                              .swiglu_rows = swiglu_rows,
                                              .swiglu_grad_rows = swiglu_grad_rows,
                                              .rotate_row = rotate_row};

}  // namespace trireme::cpu
