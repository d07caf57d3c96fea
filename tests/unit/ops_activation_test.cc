#include <cmath>

#include "core/ops/activation.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

using ops::Gelu;

double reference_gelu(double x, Gelu kind) {
  if (kind == Gelu::erf) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

Values reference_gelu(const Values& x, Gelu kind) {
  Values y;
  for (const double v : x) y.push_back(reference_gelu(v, kind));
  return y;
}

Values reference_swiglu(const Values& gate_up, int64_t rows, int64_t columns) {
  Values y;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t i = 0; i < columns; ++i) {
      const double gate = gate_up[static_cast<size_t>(n * 2 * columns + i)];
      const double up = gate_up[static_cast<size_t>(n * 2 * columns + columns + i)];
      y.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  }
  return y;
}

const std::vector<Shape> kShapes = {{0, 5}, {1, 1}, {1, 3}, {3, 17}, {3, 63}, {2, 65}, {3, 130}, {3, 64}, {2, 264}};

class ActivationTest : public OpTest {};

TEST_P(ActivationTest, GeluMatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Gelu kind : {Gelu::tanh, Gelu::erf}) {
      for (const Shape& shape : kShapes) {
        const Tensor x = normal(dtype, shape, "x", 2.0);
        const Tensor dy = normal(dtype, shape, "dy");
        Tensor y = unset(dtype, shape);
        Tensor dx = unset(dtype, shape);
        ops::gelu_forward(stream(), x, kind, y);
        ops::gelu_backward(stream(), dy, x, kind, dx);
        const double limit = tolerance(dtype, OpKind::elementwise);
        expect_close(read(y), reference_gelu(read(x), kind), limit, "y " + shape.str());
        const Values d = read(dy);
        const auto loss = [&](const Values& at) { return dot(d, reference_gelu(at, kind)); };
        expect_close(read(dx), gradient_of(loss, read(x)), limit, "dx " + shape.str());
      }
    }
  }
}

TEST_P(ActivationTest, SwigluMatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Shape& shape : kShapes) {
      const int64_t rows = shape[0];
      const int64_t columns = shape[1];
      const Tensor x = normal(dtype, {rows, 2 * columns}, "gate_up", 2.0);
      const Tensor dy = normal(dtype, shape, "dy");
      Tensor y = unset(dtype, shape);
      Tensor dx = unset(dtype, x.shape());
      ops::swiglu_forward(stream(), x, y);
      ops::swiglu_backward(stream(), dy, x, dx);
      const double limit = tolerance(dtype, OpKind::elementwise);
      expect_close(read(y), reference_swiglu(read(x), rows, columns), limit, "y " + shape.str());
      const Values d = read(dy);
      const auto loss = [&](const Values& at) { return dot(d, reference_swiglu(at, rows, columns)); };
      expect_close(read(dx), gradient_of(loss, read(x)), limit, "dx " + shape.str());
    }
  }
}

TEST_P(ActivationTest, MayWorkInPlace) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Shape shape{37, 1301};
    const Shape wide{37, 2602};
    const Tensor dy = normal(dtype, shape, "dy");
    Tensor x = normal(dtype, shape, "x");
    Tensor y = unset(dtype, shape);
    Tensor dx = unset(dtype, shape);
    ops::gelu_forward(stream(), x, Gelu::tanh, y);
    ops::gelu_backward(stream(), dy, x, Gelu::tanh, dx);
    Tensor d = normal(dtype, shape, "dy");
    ops::gelu_backward(stream(), d, x, Gelu::tanh, d);
    ops::gelu_forward(stream(), x, Gelu::tanh, x);
    EXPECT_TRUE(read_bytes(stream(), x) == read_bytes(stream(), y));
    EXPECT_TRUE(read_bytes(stream(), d) == read_bytes(stream(), dx));

    Tensor gate_up = normal(dtype, wide, "gate_up");
    Tensor dgate_up = unset(dtype, wide);
    ops::swiglu_backward(stream(), dy, gate_up, dgate_up);
    ops::swiglu_backward(stream(), dy, gate_up, gate_up);
    EXPECT_TRUE(read_bytes(stream(), gate_up) == read_bytes(stream(), dgate_up));
  }
}

TEST_P(ActivationTest, BackwardIsTheSlopeOfForward) {
  const Shape shape{5, 63};
  const Values x = normal_values(2 * shape.numel(), "x");
  const Values along = normal_values(2 * shape.numel(), "along");
  const Tensor dy = normal(DType::f32, shape, "dy");
  const auto loss = [&](const Values& at) {
    Tensor y = unset(DType::f32, shape);
    ops::swiglu_forward(stream(), tensor(DType::f32, {5, 126}, at), y);
    return dot(read(y), read(dy));
  };
  Tensor dx = unset(DType::f32, {5, 126});
  ops::swiglu_backward(stream(), dy, tensor(DType::f32, {5, 126}, x), dx);
  const double want = (loss(plus(x, 1e-2, along)) - loss(plus(x, -1e-2, along))) / 2e-2;
  EXPECT_NEAR(dot(read(dx), along), want, kForwardDifferenceTolerance * std::abs(want));
}

TEST_P(ActivationTest, SameBitsOnAnyPool) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_same_bits_on_any_pool([&](Stream& s) {
      const Shape shape{333, 130};
      const Tensor x = make_tensor(s, dtype, shape, normal_values(shape.numel(), "x"));
      const Tensor wide = make_tensor(s, dtype, {333, 260}, normal_values(2 * shape.numel(), "wide"));
      std::vector<Tensor> out;
      for (int i = 0; i < 3; ++i) out.push_back(make_unset(s, dtype, shape));
      ops::gelu_forward(s, x, Gelu::tanh, out[0]);
      ops::gelu_forward(s, x, Gelu::erf, out[1]);
      ops::swiglu_forward(s, wide, out[2]);
      return out;
    });
  }
}

TEST_P(ActivationTest, RefusesShapesThatDoNotFit) {
  Tensor y = unset(DType::f32, {3, 4});
  EXPECT_THROW(ops::swiglu_forward(stream(), unset(DType::f32, {3, 4}), y), BugError);
  EXPECT_THROW(ops::gelu_forward(stream(), unset(DType::bf16, {3, 4}), Gelu::tanh, y), BugError);
}

TRIREME_OP_DEVICES(ActivationTest);

}  // namespace
}  // namespace trireme::testing
