// The CPU's own loops over bf16 against core/ops/math.h, for every bf16 there is and every length of a last vector.
// A CPU without such loops has nothing to test.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/ops/cpu/bf16_loops.h"
#include "core/ops/math.h"

namespace trireme {
namespace {

using Elements = std::vector<bf16>;

constexpr uint16_t kUntouched = 0x1234;

Elements elements(int64_t n, uint16_t bits = kUntouched) {
  bf16 x;
  x.bits = bits;
  return Elements(static_cast<size_t>(n), x);
}

Elements every_bf16() {
  Elements all = elements(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  return all;
}

// Numbers between −2 and 2.
Elements some(int64_t n, int64_t seed) {
  Elements x = elements(n);
  for (int64_t i = 0; i < n; ++i)
    x[static_cast<size_t>(i)] = bf16(static_cast<float>((i * 7919 + seed) % 2001) / 500.0f - 2.0f);
  return x;
}

float value(const Elements& x, int64_t i) { return static_cast<float>(x[static_cast<size_t>(i)]); }

// A unit in the last place of bf16 apart at most, or both lost below fp32's smallest normal numbers.
void expect_near(const Elements& got, int64_t i, float want, const std::string& what) {
  const bf16 x = got[static_cast<size_t>(i)];
  const bf16 y(want);
  const float a = static_cast<float>(x), b = static_cast<float>(y);
  if (std::isnan(b)) {
    EXPECT_TRUE(std::isnan(a)) << what << " at " << i;
  } else if (std::abs(a) > 1e-36f || std::abs(b) > 1e-36f) {
    EXPECT_LE(std::abs(int{x.bits} - int{y.bits}), 1) << what << " at " << i << ": " << a << ", expected " << b;
  }
}

TEST(Bf16Loops, GeluOfEveryNumber) {
  const cpu::Bf16Loops* loops = cpu::bf16_loops();
  if (loops == nullptr) return;
  const Elements x = every_bf16();
  const auto n = static_cast<int64_t>(x.size());
  const Elements dy = some(n, 3);
  Elements y = elements(n), dx = elements(n);
  loops->gelu_tanh_range(x.data(), y.data(), n);
  loops->gelu_tanh_grad_range(dy.data(), x.data(), dx.data(), n);
  for (int64_t i = 0; i < n; ++i) {
    expect_near(y, i, math::gelu_tanh(value(x, i)), "gelu");
    expect_near(dx, i, value(dy, i) * math::gelu_tanh_slope(value(x, i)), "its gradient");
  }
}

TEST(Bf16Loops, SwigluOfEveryGate) {
  const cpu::Bf16Loops* loops = cpu::bf16_loops();
  if (loops == nullptr) return;
  const int64_t rows = 1 << 9, columns = 1 << 7;
  const Elements gates = every_bf16(), ups = some(rows * columns, 5), dy = some(rows * columns, 11);
  Elements gate_up = elements(2 * rows * columns), y = elements(rows * columns),
           dgate_up = elements(2 * rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      gate_up[static_cast<size_t>(r * 2 * columns + c)] = gates[static_cast<size_t>(r * columns + c)];
      gate_up[static_cast<size_t>((r * 2 + 1) * columns + c)] = ups[static_cast<size_t>(r * columns + c)];
    }
  }
  loops->swiglu_rows(gate_up.data(), y.data(), rows, columns);
  loops->swiglu_grad_rows(dy.data(), gate_up.data(), dgate_up.data(), rows, columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int64_t at = i / columns * 2 * columns + i % columns;
    const auto grad = math::swiglu_grad(value(dy, i), value(gates, i), value(ups, i));
    expect_near(y, i, math::silu(value(gates, i)) * value(ups, i), "swiglu");
    expect_near(dgate_up, at, grad.gate, "its gradient to the gate");
    expect_near(dgate_up, at + columns, grad.up, "its gradient to the other half");
  }
}

TEST(Bf16Loops, RotatesAsTheFunctionDoes) {
  const cpu::Bf16Loops* loops = cpu::bf16_loops();
  if (loops == nullptr) return;
  for (int64_t half = 1; half <= 50; ++half) {
    const int64_t heads = 3;
    std::vector<float> cos, sin;
    for (int64_t i = 0; i < half; ++i) {
      cos.push_back(std::cos(static_cast<float>(i)));
      sin.push_back(std::sin(static_cast<float>(i)));
    }
    const Elements before = some(heads * 2 * half, 13);
    Elements row = before;
    row.push_back(elements(1)[0]);
    loops->rotate_row(row.data(), cos.data(), sin.data(), -1.0f, heads, half);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t a = h * 2 * half + i;
        const auto at = static_cast<size_t>(i);
        const auto turned = math::turn(value(before, a), value(before, a + half), cos[at], -sin[at]);
        expect_near(row, a, turned.a, "first of a pair");
        expect_near(row, a + half, turned.b, "second of a pair");
      }
    }
    EXPECT_EQ(row.back().bits, kUntouched);
  }
}

TEST(Bf16Loops, LastVectorsOfEveryLength) {
  const cpu::Bf16Loops* loops = cpu::bf16_loops();
  if (loops == nullptr) return;
  for (int64_t n = 0; n <= 50; ++n) {
    // Nothing lies behind the operands, so that a sanitizer sees a read too far.
    const Elements x = some(n, 1), gate_up = some(2 * n, 7), dy = some(n, 9);
    Elements y = elements(n + 1), z = elements(n + 1), d = elements(n + 1), dgate_up = elements(2 * n + 1);
    loops->gelu_tanh_range(x.data(), y.data(), n);
    loops->gelu_tanh_grad_range(dy.data(), x.data(), d.data(), n);
    loops->swiglu_rows(gate_up.data(), z.data(), 1, n);
    loops->swiglu_grad_rows(dy.data(), gate_up.data(), dgate_up.data(), 1, n);
    for (int64_t i = 0; i < n; ++i) {
      const auto grad = math::swiglu_grad(value(dy, i), value(gate_up, i), value(gate_up, n + i));
      expect_near(y, i, math::gelu_tanh(value(x, i)), "gelu");
      expect_near(d, i, value(dy, i) * math::gelu_tanh_slope(value(x, i)), "its gradient");
      expect_near(z, i, math::silu(value(gate_up, i)) * value(gate_up, n + i), "swiglu");
      expect_near(dgate_up, i, grad.gate, "its gradient to the gate");
      expect_near(dgate_up, n + i, grad.up, "its gradient to the other half");
    }
    EXPECT_EQ(y.back().bits, kUntouched);
    EXPECT_EQ(z.back().bits, kUntouched);
    EXPECT_EQ(d.back().bits, kUntouched);
    EXPECT_EQ(dgate_up.back().bits, kUntouched);
  }
}

}  // namespace
}  // namespace trireme
