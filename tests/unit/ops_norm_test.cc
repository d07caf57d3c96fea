#include <cmath>

#include "core/ops/norm.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

constexpr double kEps = 1e-5;

// Layer norm of the rows of x, or RMS norm where `bias` is empty.
Values reference_norm(const Values& x, const Values& weight, const Values& bias) {
  const size_t columns = weight.size();
  Values y(x.size());
  for (size_t row = 0; row + columns <= x.size(); row += columns) {
    double mean = 0;
    if (!bias.empty()) {
      for (size_t i = 0; i < columns; ++i) mean += x[row + i] / static_cast<double>(columns);
    }
    double square = 0;
    for (size_t i = 0; i < columns; ++i) square += (x[row + i] - mean) * (x[row + i] - mean);
    const double rstd = 1 / std::sqrt(square / static_cast<double>(columns) + kEps);
    for (size_t i = 0; i < columns; ++i) {
      y[row + i] = (x[row + i] - mean) * rstd * weight[i] + (bias.empty() ? 0 : bias[i]);
    }
  }
  return y;
}

struct NormGradients {
  Values dx, dweight, dbias;
};

NormGradients reference_norm_gradients(const Values& dy, const Values& x, const Values& weight, bool layer) {
  const size_t columns = weight.size();
  const double count = static_cast<double>(columns);
  const Values zeros(columns, 0.0);
  const Values h = reference_norm(x, Values(columns, 1.0), layer ? zeros : Values{});
  NormGradients out{Values(x.size()), zeros, zeros};
  for (size_t row = 0; row + columns <= x.size(); row += columns) {
    double mean = 0;
    for (size_t i = 0; i < columns && layer; ++i) mean += x[row + i] / count;
    double square = 0;
    double mean_g = 0;
    double mean_gh = 0;
    for (size_t i = 0; i < columns; ++i) {
      square += (x[row + i] - mean) * (x[row + i] - mean);
      mean_g += dy[row + i] * weight[i] / count;
      mean_gh += dy[row + i] * weight[i] * h[row + i] / count;
      out.dweight[i] += dy[row + i] * h[row + i];
      out.dbias[i] += dy[row + i];
    }
    const double rstd = 1 / std::sqrt(square / count + kEps);
    for (size_t i = 0; i < columns; ++i) {
      out.dx[row + i] = rstd * (dy[row + i] * weight[i] - (layer ? mean_g : 0) - h[row + i] * mean_gh);
    }
  }
  return out;
}

// RMS norm of the query and key heads of a packed qkv.
Values reference_qk_norm(const Values& qkv, const Values& q_weight, const Values& k_weight, size_t num_heads,
                         size_t num_kv_heads) {
  const size_t dim = q_weight.size();
  const size_t row = (num_heads + 2 * num_kv_heads) * dim;
  Values y = qkv;
  for (size_t n = 0; n < qkv.size() / row; ++n) {
    for (size_t h = 0; h < num_heads + num_kv_heads; ++h) {
      const auto head = qkv.begin() + static_cast<std::ptrdiff_t>(n * row + h * dim);
      const Values x(head, head + static_cast<std::ptrdiff_t>(dim));
      const Values normed = reference_norm(x, h < num_heads ? q_weight : k_weight, {});
      std::copy(normed.begin(), normed.end(), y.begin() + static_cast<std::ptrdiff_t>(n * row + h * dim));
    }
  }
  return y;
}

struct NormCase {
  DType dtype;
  bool layer;
  Shape shape;
  std::string str() const { return dtype_name(dtype) + (layer ? " layer " : " rms ") + shape.str(); }
};

std::vector<NormCase> norm_cases() {
  std::vector<NormCase> cases;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool layer : {false, true}) {
      for (const Shape& shape : {Shape{0, 5}, Shape{3, 1}, Shape{1, 3}, Shape{3, 17}, Shape{2, 63}, Shape{65, 3},
                                 Shape{3, 65}, Shape{4, 130}}) {
        cases.push_back({dtype, layer, shape});
      }
    }
  }
  return cases;
}

class NormTest : public OpTest {
 protected:
  // x with a mean of 0.5: a layer norm that forgot to subtract it would show.
  Tensor make_x(const NormCase& c, const std::string& name) {
    return tensor(c.dtype, c.shape,
                  plus(normal_values(c.shape.numel(), name), 1, Values(static_cast<size_t>(c.shape.numel()), 0.5)));
  }
  Tensor make_weight(DType dtype, int64_t n, const std::string& name) {
    return tensor(dtype, {n}, plus(Values(static_cast<size_t>(n), 1.0), 0.3, normal_values(n, name)));
  }
  ops::NormStats make_stats(const NormCase& c) {
    ops::NormStats stats;
    if (c.layer) stats.mean = unset(DType::f32, {c.shape[0]});
    stats.rstd = unset(DType::f32, {c.shape[0]});
    return stats;
  }
  Values read_or_empty(const Tensor& t) { return t.defined() ? read(t) : Values{}; }
  // Both passes, with a residual.
  void check_both_passes(const NormCase& c) {
    const int64_t columns = c.shape[1];
    const Tensor x = make_x(c, "x");
    const Tensor weight = make_weight(c.dtype, columns, "weight");
    const Tensor bias = c.layer ? normal(c.dtype, {columns}, "bias") : Tensor();
    const Tensor dy = normal(c.dtype, c.shape, "dy");
    Tensor y = unset(c.dtype, c.shape);
    ops::NormStats stats = make_stats(c);
    ops::norm_forward(stream(), x, weight, bias, kEps, y, stats);
    const Tensor residual = normal(c.dtype, c.shape, "residual");
    Tensor dx = unset(c.dtype, c.shape);
    Tensor dweight = unset(DType::f32, {columns});
    Tensor dbias = c.layer ? unset(DType::f32, {columns}) : Tensor();
    ops::norm_backward(stream(), dy, x, weight, stats, residual, dx, dweight, dbias);

    const double limit = tolerance(c.dtype, OpKind::reduction);
    const double limit_f32 = tolerance(DType::f32, OpKind::reduction);
    expect_close(read(y), reference_norm(read(x), read(weight), read_or_empty(bias)), limit, "y " + c.str());
    const NormGradients want = reference_norm_gradients(read(dy), read(x), read(weight), c.layer);
    expect_close(read(dx), plus(read(residual), 1, want.dx), limit, "dx " + c.str());
    expect_close(read(dweight), want.dweight, limit_f32, "dweight " + c.str());
    if (c.layer) expect_close(read(dbias), want.dbias, limit_f32, "dbias " + c.str());
  }
};

TEST_P(NormTest, ForwardMatchesReference) {
  for (const NormCase& c : norm_cases()) {
    const int64_t columns = c.shape[1];
    const Tensor x = make_x(c, "x");
    const Tensor weight = make_weight(c.dtype, columns, "weight");
    const Tensor bias = c.layer ? normal(c.dtype, {columns}, "bias") : Tensor();
    Tensor y = unset(c.dtype, c.shape);
    ops::NormStats stats = make_stats(c);
    ops::norm_forward(stream(), x, weight, bias, kEps, y, stats);
    const double limit = tolerance(c.dtype, OpKind::reduction);
    expect_close(read(y), reference_norm(read(x), read(weight), read_or_empty(bias)), limit, c.str());
  }
}

TEST_P(NormTest, AddNormIsAddThenNorm) {
  for (const NormCase& c : norm_cases()) {
    const int64_t columns = c.shape[1];
    Tensor a = make_x(c, "a");
    const Tensor b = make_x(c, "b");
    const Tensor weight = make_weight(c.dtype, columns, "weight");
    const Tensor bias = c.layer ? normal(c.dtype, {columns}, "bias") : Tensor();
    Tensor sum = unset(c.dtype, c.shape);
    Tensor y = unset(c.dtype, c.shape);
    Tensor y_of_sum = unset(c.dtype, c.shape);
    ops::NormStats stats = make_stats(c);
    ops::NormStats stats_of_sum = make_stats(c);
    const Values exact_sum = plus(read(a), 1, read(b));
    ops::add_norm_forward(stream(), a, b, weight, bias, kEps, sum, y, stats);
    expect_close(read(sum), exact_sum, tolerance(c.dtype, OpKind::elementwise), "sum " + c.str());
    ops::norm_forward(stream(), sum, weight, bias, kEps, y_of_sum, stats_of_sum);
    EXPECT_EQ(read(y), read(y_of_sum)) << c.str();
    EXPECT_EQ(read(stats.rstd), read(stats_of_sum.rstd)) << c.str();
    ops::add_norm_forward(stream(), a, b, weight, bias, kEps, a, y, stats);  // sum aliases a
    EXPECT_EQ(read(a), read(sum)) << c.str();
    EXPECT_EQ(read(y), read(y_of_sum)) << c.str();
  }
}

TEST_P(NormTest, BackwardMatchesFiniteDifferences) {
  for (const NormCase& c : norm_cases()) {
    if (c.shape[1] == 1 && c.layer) continue;  // a constant function: nothing but rounding to compare
    const int64_t columns = c.shape[1];
    const Tensor x = make_x(c, "x");
    const Tensor weight = make_weight(c.dtype, columns, "weight");
    const Tensor bias = c.layer ? normal(c.dtype, {columns}, "bias") : Tensor();
    const Tensor dy = normal(c.dtype, c.shape, "dy");
    Tensor y = unset(c.dtype, c.shape);
    ops::NormStats stats = make_stats(c);
    ops::norm_forward(stream(), x, weight, bias, kEps, y, stats);

    Tensor dx = unset(c.dtype, c.shape);
    Tensor dweight = unset(DType::f32, {columns});
    Tensor dbias = c.layer ? unset(DType::f32, {columns}) : Tensor();
    ops::norm_backward(stream(), dy, x, weight, stats, /*residual=*/{}, dx, dweight, dbias);

    const Values xs = read(x);
    const Values ws = read(weight);
    const Values bs = read_or_empty(bias);
    const Values d = read(dy);
    const Values want_dx = gradient_of([&](const Values& at) { return dot(d, reference_norm(at, ws, bs)); }, xs);
    const Values want_dw = gradient_of([&](const Values& at) { return dot(d, reference_norm(xs, at, bs)); }, ws);
    // A row of one element gives RMS norm a slope of almost nothing.
    const double limit = tolerance(c.dtype, OpKind::reduction) * (columns == 1 ? 1e4 : columns <= 3 ? 10 : 1);
    expect_close(read(dx), want_dx, limit, "dx " + c.str());
    const double limit_f32 = tolerance(DType::f32, OpKind::reduction);
    expect_close(read(dweight), want_dw, limit_f32, "dweight " + c.str());
    if (c.layer) {
      const Values want_db = gradient_of([&](const Values& at) { return dot(d, reference_norm(xs, ws, at)); }, bs);
      expect_close(read(dbias), want_db, limit_f32, "dbias " + c.str());
    }

    Tensor residual = normal(c.dtype, c.shape, "residual");
    const Values want = plus(read(residual), 1, want_dx);
    ops::norm_backward(stream(), dy, x, weight, stats, residual, residual, dweight, dbias);
    expect_close(read(residual), want, limit, "residual + dx " + c.str());
    expect_close(read(dweight), want_dw, limit_f32, "dweight is overwritten " + c.str());
  }
}

TEST_P(NormTest, BackwardIsTheSlopeOfForward) {
  for (const bool layer : {false, true}) {
    const NormCase c{DType::f32, layer, {5, 65}};
    const Tensor weight = make_weight(c.dtype, 65, "weight");
    const Tensor bias = layer ? normal(c.dtype, {65}, "bias") : Tensor();
    const Tensor dy = normal(c.dtype, c.shape, "dy");
    ops::NormStats stats = make_stats(c);
    const auto loss = [&](const Values& at) {
      Tensor y = unset(c.dtype, c.shape);
      ops::norm_forward(stream(), tensor(c.dtype, c.shape, at), weight, bias, kEps, y, stats);
      return dot(read(y), read(dy));
    };
    const Values x = read(make_x(c, "x"));
    const Values along = normal_values(c.shape.numel(), "along");
    const double want = (loss(plus(x, 1e-2, along)) - loss(plus(x, -1e-2, along))) / 2e-2;
    loss(x);
    Tensor dx = unset(c.dtype, c.shape);
    Tensor dweight = unset(DType::f32, {65});
    Tensor dbias = layer ? unset(DType::f32, {65}) : Tensor();
    ops::norm_backward(stream(), dy, tensor(c.dtype, c.shape, x), weight, stats, /*residual=*/{}, dx, dweight, dbias);
    EXPECT_NEAR(dot(read(dx), along), want, kForwardDifferenceTolerance * std::abs(want)) << c.str();
  }
}

// Row blocks: more rows than one block holds, and more than one piece of the forward pass.
TEST_P(NormTest, ManyRows) {
  const NormCase c{DType::f32, true, {1003, 63}};
  const Tensor x = make_x(c, "x");
  const Tensor weight = make_weight(c.dtype, 63, "weight");
  const Tensor bias = normal(c.dtype, {63}, "bias");
  const Tensor dy = normal(c.dtype, c.shape, "dy");
  Tensor y = unset(c.dtype, c.shape);
  ops::NormStats stats = make_stats(c);
  ops::norm_forward(stream(), x, weight, bias, kEps, y, stats);
  const Values ones(63, 1.0);
  const Values zeros(63, 0.0);
  expect_close(read(y), reference_norm(read(x), read(weight), read(bias)), tolerance(c.dtype, OpKind::reduction), "y");
  Tensor dx = unset(c.dtype, c.shape);
  Tensor dweight = unset(DType::f32, {63});
  Tensor dbias = unset(DType::f32, {63});
  ops::norm_backward(stream(), dy, x, weight, stats, /*residual=*/{}, dx, dweight, dbias);
  const Values h = reference_norm(read(x), ones, zeros);
  const Values d = read(dy);
  Values want_dw(63);
  Values want_db(63);
  for (size_t i = 0; i < d.size(); ++i) {
    want_dw[i % 63] += d[i] * h[i];
    want_db[i % 63] += d[i];
  }
  expect_close(read(dweight), want_dw, tolerance(DType::f32, OpKind::reduction), "dweight");
  expect_close(read(dbias), want_db, tolerance(DType::f32, OpKind::reduction), "dbias");
}

// The gradients that the next test compares with are those of the reference's forward pass.
TEST_P(NormTest, ReferenceGradientsAreSlopes) {
  const Values x = normal_values(3 * 5, "x");
  const Values w = normal_values(5, "w");
  const Values b = normal_values(5, "b");
  const Values dy = normal_values(3 * 5, "dy");
  for (const bool layer : {false, true}) {
    const Values bias = layer ? b : Values{};
    const NormGradients got = reference_norm_gradients(dy, x, w, layer);
    expect_close(got.dx, gradient_of([&](const Values& v) { return dot(dy, reference_norm(v, w, bias)); }, x), 1e-7,
                 "dx");
    expect_close(got.dweight, gradient_of([&](const Values& v) { return dot(dy, reference_norm(x, v, bias)); }, w),
                 1e-7, "dweight");
    if (!layer) continue;
    expect_close(got.dbias, gradient_of([&](const Values& v) { return dot(dy, reference_norm(x, w, v)); }, b), 1e-7,
                 "dbias");
  }
}

// Rows that vectors divide.
TEST_P(NormTest, RowsOfWholeVectors) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool layer : {false, true}) {
      for (const Shape& shape : {Shape{67, 8}, Shape{5, 136}}) check_both_passes({dtype, layer, shape});
    }
  }
}

// More rows than blocks; rows so long that nothing keeps them.
TEST_P(NormTest, LongOrManyRows) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool layer : {false, true}) {
      for (const Shape& shape :
           {Shape{3, 2304}, Shape{2, 4352}, Shape{2, 8448}, Shape{2, 25088}, Shape{700, 1032}, Shape{4500, 64}}) {
        check_both_passes({dtype, layer, shape});
      }
    }
  }
}

TEST_P(NormTest, SameBitsOnAnyPool) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_same_bits_on_any_pool([&](Stream& s) {
      const Shape shape{777, 130};
      const Tensor x = make_tensor(s, dtype, shape, normal_values(shape.numel(), "x"));
      const Tensor dy = make_tensor(s, dtype, shape, normal_values(shape.numel(), "dy"));
      const Tensor weight = make_tensor(s, dtype, {130}, normal_values(130, "weight"));
      ops::NormStats stats{make_unset(s, DType::f32, {777}), make_unset(s, DType::f32, {777})};
      Tensor y = make_unset(s, dtype, shape);
      Tensor dx = make_unset(s, dtype, shape);
      Tensor dweight = make_unset(s, DType::f32, {130});
      Tensor dbias = make_unset(s, DType::f32, {130});
      ops::norm_forward(s, x, weight, weight, 1e-6f, y, stats);
      ops::norm_backward(s, dy, x, weight, stats, /*residual=*/{}, dx, dweight, dbias);
      return std::vector<Tensor>{y, stats.mean, stats.rstd, dx, dweight, dbias};
    });
  }
}

TEST_P(NormTest, QkNormMatchesReference) {
  struct Case {
    int64_t rows, heads, kv_heads, dim;
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c : {Case{0, 2, 1, 4}, Case{3, 2, 1, 3}, Case{2, 3, 3, 17}, Case{35, 1, 1, 4}, Case{2, 4, 2, 65},
                          Case{2, 2, 1, 64}, Case{2, 2, 1, 128}, Case{2, 1, 1, 264}}) {
      const Shape shape{c.rows, (c.heads + 2 * c.kv_heads) * c.dim};
      const std::string what = dtype_name(dtype) + " " + shape.str();
      const Tensor qkv = normal(dtype, shape, "qkv");
      const Tensor q_weight = make_weight(dtype, c.dim, "q");
      const Tensor k_weight = make_weight(dtype, c.dim, "k");
      Tensor out = unset(dtype, shape);
      Tensor rstd = unset(DType::f32, {c.rows, c.heads + c.kv_heads});
      ops::qk_norm_forward(stream(), qkv, q_weight, k_weight, c.heads, c.kv_heads, kEps, out, rstd);
      const auto reference = [&](const Values& x, const Values& q, const Values& k) {
        return reference_qk_norm(x, q, k, static_cast<size_t>(c.heads), static_cast<size_t>(c.kv_heads));
      };
      const Values xs = read(qkv);
      const Values qs = read(q_weight);
      const Values ks = read(k_weight);
      const double limit = tolerance(dtype, OpKind::reduction);
      expect_close(read(out), reference(xs, qs, ks), limit, "out " + what);

      Tensor dqkv = normal(dtype, shape, "dqkv");
      const Values d = read(dqkv);
      Tensor dq_weight = unset(DType::f32, {c.dim});
      Tensor dk_weight = unset(DType::f32, {c.dim});
      ops::qk_norm_backward(stream(), dqkv, qkv, q_weight, k_weight, rstd, c.heads, c.kv_heads, dq_weight, dk_weight);
      const auto want = [&](const Values& at, auto&& call) {
        return gradient_of([&](const Values& v) { return dot(d, call(v)); }, at);
      };
      expect_close(read(dqkv), want(xs, [&](const Values& v) { return reference(v, qs, ks); }),
                   c.dim <= 4 ? 10 * limit : limit, "dqkv " + what);
      const double limit_f32 = tolerance(DType::f32, OpKind::reduction);
      expect_close(read(dq_weight), want(qs, [&](const Values& v) { return reference(xs, v, ks); }), limit_f32,
                   "dq " + what);
      expect_close(read(dk_weight), want(ks, [&](const Values& v) { return reference(xs, qs, v); }), limit_f32,
                   "dk " + what);
    }
  }
}

TEST_P(NormTest, QkNormSameBitsOnAnyPool) {
  expect_same_bits_on_any_pool([](Stream& s) {
    const Shape shape{301, 6 * 64};
    const Tensor qkv = make_tensor(s, DType::bf16, shape, normal_values(shape.numel(), "qkv"));
    const Tensor weight = make_tensor(s, DType::bf16, {64}, normal_values(64, "weight"));
    Tensor out = make_unset(s, DType::bf16, shape);
    Tensor rstd = make_unset(s, DType::f32, {301, 5});
    ops::qk_norm_forward(s, qkv, weight, weight, 4, 1, 1e-6f, out, rstd);
    Tensor dqkv = make_tensor(s, DType::bf16, shape, normal_values(shape.numel(), "dqkv"));
    Tensor dq = make_unset(s, DType::f32, {64});
    Tensor dk = make_unset(s, DType::f32, {64});
    ops::qk_norm_backward(s, dqkv, qkv, weight, weight, rstd, 4, 1, dq, dk);
    return std::vector<Tensor>{out, rstd, dqkv, dq, dk};
  });
}

TEST_P(NormTest, RefusesABiasWithoutAMean) {
  const Tensor x = unset(DType::f32, {2, 3});
  const Tensor weight = unset(DType::f32, {3});
  Tensor y = unset(DType::f32, {2, 3});
  ops::NormStats stats{Tensor(), unset(DType::f32, {2})};
  EXPECT_THROW(ops::norm_forward(stream(), x, weight, weight, 1e-5f, y, stats), BugError);
  Tensor same = x;
  Tensor rstd = unset(DType::f32, {2, 2});
  EXPECT_THROW(
      ops::qk_norm_forward(stream(), x, unset(DType::f32, {1}), unset(DType::f32, {1}), 1, 1, 1e-5f, same, rstd),
      BugError);
}

TRIREME_OP_DEVICES(NormTest);

}  // namespace
}  // namespace trireme::testing
