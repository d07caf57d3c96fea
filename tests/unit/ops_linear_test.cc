#include "core/ops/linear.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

struct LinearCase {
  int64_t rows, in, out;
  std::string str() const { return Shape{rows, in, out}.str(); }
};

const std::vector<LinearCase> kCases = {{0, 5, 3},    {1, 1, 1},    {3, 17, 1},    {1, 63, 65},
                                        {65, 3, 63},  {17, 130, 9}, {63, 65, 130}, {130, 63, 17},
                                        {513, 2, 64}, {600, 1, 17}};  // bias gradients of several blocks

// y = x·wᵀ + bias, `bias` may be empty.
Values reference_linear(const LinearCase& c, const Values& x, const Values& w, const Values& bias) {
  Values y;
  for (int64_t n = 0; n < c.rows; ++n) {
    for (int64_t o = 0; o < c.out; ++o) {
      double sum = bias.empty() ? 0 : bias[static_cast<size_t>(o)];
      for (int64_t i = 0; i < c.in; ++i)
        sum += x[static_cast<size_t>(n * c.in + i)] * w[static_cast<size_t>(o * c.in + i)];
      y.push_back(sum);
    }
  }
  return y;
}

struct LinearGradients {
  Values dx, dw, dbias;
};

LinearGradients reference_gradients(const LinearCase& c, const Values& dy, const Values& x, const Values& w) {
  LinearGradients g{Values(static_cast<size_t>(c.rows * c.in)), Values(static_cast<size_t>(c.out * c.in)),
                    Values(static_cast<size_t>(c.out))};
  for (int64_t n = 0; n < c.rows; ++n) {
    for (int64_t o = 0; o < c.out; ++o) {
      const double d = dy[static_cast<size_t>(n * c.out + o)];
      g.dbias[static_cast<size_t>(o)] += d;
      for (int64_t i = 0; i < c.in; ++i) {
        g.dx[static_cast<size_t>(n * c.in + i)] += d * w[static_cast<size_t>(o * c.in + i)];
        g.dw[static_cast<size_t>(o * c.in + i)] += d * x[static_cast<size_t>(n * c.in + i)];
      }
    }
  }
  return g;
}

class LinearTest : public OpTest {
 protected:
  Values read_or_empty(const Tensor& t) { return t.defined() ? read(t) : Values{}; }
};

TEST_P(LinearTest, ForwardMatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const LinearCase& c : kCases) {
      for (const bool with_bias : {false, true}) {
        const std::string what = dtype_name(dtype) + " " + c.str() + (with_bias ? " bias" : "");
        const Tensor x = normal(dtype, {c.rows, c.in}, "x");
        const Tensor weight = normal(dtype, {c.out, c.in}, "weight");
        const Tensor bias = with_bias ? normal(dtype, {c.out}, "bias", 5.0) : Tensor();
        const Values want = reference_linear(c, read(x), read(weight), read_or_empty(bias));
        for (const DType out_dtype : {dtype, DType::f32}) {
          Tensor y = unset(out_dtype, {c.rows, c.out});
          ops::linear_forward(stream(), x, weight, bias, y);
          expect_close(read(y), want, tolerance(out_dtype, OpKind::matmul), what);
        }
        Tensor residual = normal(dtype, {c.rows, c.out}, "residual", 5.0);
        const Values before = read(residual);
        const Values sum = plus(want, 1, before);
        Tensor y = unset(dtype, {c.rows, c.out});
        ops::linear_add_forward(stream(), x, weight, bias, residual, y);
        expect_close(read(y), sum, tolerance(dtype, OpKind::matmul), "added " + what);
        EXPECT_EQ(read(residual), before) << what;
        ops::linear_add_forward(stream(), x, weight, bias, residual, residual);
        EXPECT_EQ(read(residual), read(y)) << "in place " << what;
      }
    }
  }
}

TEST_P(LinearTest, BackwardMatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const LinearCase& c : kCases) {
      const std::string what = dtype_name(dtype) + " " + c.str();
      const Tensor x = normal(dtype, {c.rows, c.in}, "x");
      const Tensor weight = normal(dtype, {c.out, c.in}, "weight");
      const Tensor dy = normal(dtype, {c.rows, c.out}, "dy");
      const LinearGradients want = reference_gradients(c, read(dy), read(x), read(weight));
      const double limit = tolerance(dtype, OpKind::matmul);

      Tensor dx = unset(dtype, {c.rows, c.in});
      ops::linear_backward_input(stream(), dy, weight, dx, /*accumulate=*/false);
      expect_close(read(dx), want.dx, limit, "dx " + what);
      Tensor sum = normal(dtype, {c.rows, c.in}, "before");
      const Values want_sum = plus(want.dx, 1, read(sum));
      ops::linear_backward_input(stream(), dy, weight, sum, /*accumulate=*/true);
      expect_close(read(sum), want_sum, limit, "dx added " + what);

      for (const DType grad_dtype : {DType::f32, DType::bf16}) {
        const double grad_limit = tolerance(grad_dtype, OpKind::matmul);
        Tensor dw = unset(grad_dtype, {c.out, c.in});
        Tensor dbias = unset(grad_dtype, {c.out});
        ops::linear_backward_weight(stream(), dy, x, dw, dbias, /*accumulate=*/false);
        expect_close(read(dw), want.dw, grad_limit, "dw " + what);
        expect_close(read(dbias), want.dbias, grad_limit, "dbias " + what);
        const Values dw_before = read(dw);
        const Values dbias_before = read(dbias);
        ops::linear_backward_weight(stream(), dy, x, dw, dbias, /*accumulate=*/true);
        expect_close(read(dw), plus(want.dw, 1, dw_before), grad_limit, "dw twice " + what);
        expect_close(read(dbias), plus(want.dbias, 1, dbias_before), grad_limit, "dbias twice " + what);
        Tensor none;
        ops::linear_backward_weight(stream(), dy, x, dw, none, /*accumulate=*/false);
        expect_close(read(dw), want.dw, grad_limit, "dw without bias " + what);
      }
    }
  }
}

// The analytic gradients above are those of the reference's forward pass.
TEST_P(LinearTest, ReferenceGradientsAreSlopes) {
  const LinearCase c{3, 5, 4};
  const Values x = normal_values(15, "x");
  const Values w = normal_values(20, "w");
  const Values b = normal_values(4, "b");
  const Values dy = normal_values(12, "dy");
  const LinearGradients got = reference_gradients(c, dy, x, w);
  expect_close(got.dx, gradient_of([&](const Values& v) { return dot(dy, reference_linear(c, v, w, b)); }, x), 1e-8,
               "dx");
  expect_close(got.dw, gradient_of([&](const Values& v) { return dot(dy, reference_linear(c, x, v, b)); }, w), 1e-8,
               "dw");
  expect_close(got.dbias, gradient_of([&](const Values& v) { return dot(dy, reference_linear(c, x, w, v)); }, b), 1e-8,
               "dbias");
}

// A sum with a residual and a bias in bf16 is rounded once: here the bias alone would vanish beside the residual.
TEST_P(LinearTest, AddInBf16RoundsOnce) {
  const Tensor x = tensor(DType::bf16, {1, 1}, {1});
  const Tensor weight = tensor(DType::bf16, {1, 1}, {0.75});
  const Tensor bias = tensor(DType::bf16, {1}, {0.75});
  // Neighbours are 2 apart: 257.5 goes to 258, 256 + 0.75 to 256.
  const Tensor residual = tensor(DType::bf16, {1, 1}, {256});
  Tensor y = unset(DType::bf16, {1, 1});
  ops::linear_add_forward(stream(), x, weight, bias, residual, y);
  EXPECT_EQ(read(y), Values{258});
}

// So is a gradient in bf16, with what was there before: each of two rows alone would vanish beside 256.
TEST_P(LinearTest, GradientsInBf16RoundOncePerCall) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor dy = tensor(dtype, {2, 1}, {0.75, 0.75});
    const Tensor x = tensor(dtype, {2, 1}, {1, 1});
    Tensor dw = tensor(DType::bf16, {1, 1}, {256});
    Tensor dbias = tensor(DType::bf16, {1}, {256});
    ops::linear_backward_weight(stream(), dy, x, dw, dbias, /*accumulate=*/true);
    EXPECT_EQ(read(dw), Values{258}) << dtype_name(dtype);
    EXPECT_EQ(read(dbias), Values{258}) << dtype_name(dtype);
  }
}

TEST_P(LinearTest, BiasGradientHasTheSameBitsOnAnyPool) {
  for (const DType grad_dtype : {DType::f32, DType::bf16}) {
    expect_same_bits_on_any_pool([&](Stream& s) {
      const Tensor dy = make_tensor(s, DType::bf16, {2001, 67}, normal_values(2001 * 67, "dy"));
      const Tensor x = make_tensor(s, DType::bf16, {2001, 1}, normal_values(2001, "x"));
      Tensor dw = make_unset(s, grad_dtype, {67, 1});
      Tensor dbias = make_unset(s, grad_dtype, {67});
      ops::linear_backward_weight(s, dy, x, dw, dbias, /*accumulate=*/false);
      return std::vector<Tensor>{dbias};
    });
  }
}

TEST_P(LinearTest, RefusesShapesThatDoNotFit) {
  Tensor y = unset(DType::f32, {2, 4});
  EXPECT_THROW(ops::linear_forward(stream(), unset(DType::f32, {2, 3}), unset(DType::f32, {4, 5}), Tensor(), y),
               BugError);
  EXPECT_THROW(ops::linear_forward(stream(), unset(DType::f32, {2, 3}), unset(DType::bf16, {4, 3}), Tensor(), y),
               BugError);
  EXPECT_THROW(
      ops::linear_add_forward(stream(), unset(DType::bf16, {2, 3}), unset(DType::bf16, {4, 3}), Tensor(), y, y),
      BugError);
  EXPECT_THROW(ops::linear_add_forward(stream(), unset(DType::f32, {2, 3}), unset(DType::f32, {4, 3}), Tensor(),
                                       unset(DType::f32, {3, 4}), y),
               BugError);
  Tensor dw = unset(DType::bf16, {4, 3});
  Tensor dbias = unset(DType::f32, {4});
  EXPECT_THROW(ops::linear_backward_weight(stream(), y, unset(DType::f32, {2, 3}), dw, dbias, false), BugError);
}

TRIREME_OP_DEVICES(LinearTest);

}  // namespace
}  // namespace trireme::testing
