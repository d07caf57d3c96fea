// A linear layer and GELU together, against the two ops one after the other.
#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/linear.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

using ops::Gelu;

struct GeluCase {
  int64_t rows, in, out;
  std::string str() const { return Shape{rows, in, out}.str(); }
};

// The second and the last have widths that fused kernels can take.
const std::vector<GeluCase> kCases = {{0, 8, 16}, {33, 24, 40}, {7, 5, 3}, {17, 12, 9}, {64, 16, 64}};

Values gelu_of(Values x, Gelu kind) {
  for (double& v : x) {
    v = kind == Gelu::tanh ? 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)))
                           : 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
  }
  return x;
}

class LinearGeluTest : public OpTest {};

// Where one kernel makes both, y comes of the unrounded sum: within the rounding of bf16 of gelu(up).
TEST_P(LinearGeluTest, ForwardIsLinearThenGelu) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Gelu kind : {Gelu::tanh, Gelu::erf}) {
      for (const GeluCase& c : kCases) {
        for (const bool with_bias : {false, true}) {
          const std::string what = dtype_name(dtype) + " " + c.str() + (with_bias ? " bias" : "");
          const Tensor x = normal(dtype, {c.rows, c.in}, "x");
          const Tensor weight = normal(dtype, {c.out, c.in}, "weight", 0.3);
          const Tensor bias = with_bias ? normal(dtype, {c.out}, "bias") : Tensor();
          Tensor want_up = unset(dtype, {c.rows, c.out});
          ops::linear_forward(stream(), x, weight, bias, want_up);

          Tensor up = unset(dtype, {c.rows, c.out});
          Tensor y = unset(dtype, {c.rows, c.out});
          const bool keep = ops::linear_gelu_forward(stream(), x, weight, bias, kind, up, y);
          const Values up_values = read(up);
          const double unit = dtype == DType::bf16 ? std::ldexp(1.0, -7) : tolerance(dtype, OpKind::matmul);
          expect_close(up_values, read(want_up), unit, "up " + what);
          // gelu's slope is at most 1.13, so y moves with the rounding of up.
          expect_close(read(y), gelu_of(up_values, kind), unit, "y " + what);
          if (keep) {
            EXPECT_EQ(dtype, DType::bf16) << what;
            EXPECT_EQ(kind, Gelu::tanh) << what;
            continue;
          }
          Tensor composed = unset(dtype, {c.rows, c.out});
          ops::gelu_forward(stream(), up, kind, composed);
          EXPECT_EQ(read_bytes(stream(), y), read_bytes(stream(), composed)) << what;
        }
      }
    }
  }
}

TEST_P(LinearGeluTest, BackwardIsGeluThenLinear) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Gelu kind : {Gelu::tanh, Gelu::erf}) {
      for (const GeluCase& c : kCases) {
        const std::string what = dtype_name(dtype) + " " + c.str();
        const Tensor dy = normal(dtype, {c.rows, c.in}, "dy");
        const Tensor weight = normal(dtype, {c.in, c.out}, "weight", 0.3);
        const Tensor up = normal(dtype, {c.rows, c.out}, "up");
        Tensor dup = unset(dtype, {c.rows, c.out});
        ops::linear_gelu_backward_input(stream(), dy, weight, up, kind, dup);

        Tensor slope = unset(DType::f32, {c.rows, c.out});
        const Tensor ones = tensor(DType::f32, {c.rows, c.out}, Values(static_cast<size_t>(c.rows * c.out), 1));
        ops::gelu_backward(stream(), ones, tensor(DType::f32, {c.rows, c.out}, read(up)), kind, slope);
        Tensor dx = unset(DType::f32, {c.rows, c.out});
        ops::linear_backward_input(stream(), tensor(DType::f32, {c.rows, c.in}, read(dy)),
                                   tensor(DType::f32, {c.in, c.out}, read(weight)), dx, /*accumulate=*/false);
        Values want = read(dx);
        const Values factor = read(slope);
        for (size_t i = 0; i < want.size(); ++i) want[i] *= factor[i];
        expect_close(read(dup), want, dtype == DType::bf16 ? 8e-3 : 1e-5, what);
      }
    }
  }
}

TEST_P(LinearGeluTest, SameBitsTwice) {
  const Tensor x = normal(DType::bf16, {40, 24}, "x");
  const Tensor weight = normal(DType::bf16, {32, 24}, "weight");
  const Tensor bias = normal(DType::bf16, {32}, "bias");
  std::vector<std::vector<std::byte>> runs[2];
  for (auto& bytes : runs) {
    Tensor up = unset(DType::bf16, {40, 32});
    Tensor y = unset(DType::bf16, {40, 32});
    Tensor dup = unset(DType::bf16, {40, 24});
    const bool keep = ops::linear_gelu_forward(stream(), x, weight, bias, Gelu::tanh, up, y);
    ops::linear_gelu_backward_input(stream(), y, weight, x, Gelu::tanh, dup);
    bytes = {read_bytes(stream(), up), read_bytes(stream(), y), read_bytes(stream(), dup), {std::byte{keep}}};
  }
  EXPECT_EQ(runs[0], runs[1]);
}

TEST_P(LinearGeluTest, RefusesWrongArguments) {
  Tensor up = unset(DType::f32, {2, 4});
  Tensor y = unset(DType::f32, {2, 5});
  EXPECT_THROW((void)ops::linear_gelu_forward(stream(), unset(DType::f32, {2, 3}), unset(DType::f32, {4, 3}), {},
                                              Gelu::tanh, up, y),
               BugError);
  EXPECT_THROW(ops::linear_gelu_backward_input(stream(), unset(DType::f32, {2, 3}), unset(DType::f32, {3, 4}), up,
                                               Gelu::tanh, up),
               BugError);
}

TRIREME_OP_DEVICES(LinearGeluTest);

}  // namespace
}  // namespace trireme::testing
