#include <cmath>
#include <limits>

#include "core/ops/adamw.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

struct State {
  Values master, m, v;
};

// AdamW as Loshchilov & Hutter 2019 write it, algorithm 2.
void reference_adamw(const ops::AdamW& o, double clip, const Values& grad, State& s) {
  const double t = static_cast<double>(o.step);
  const double beta1 = o.beta1;
  const double beta2 = o.beta2;
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * clip;
    s.m[i] = beta1 * s.m[i] + (1 - beta1) * g;
    s.v[i] = beta2 * s.v[i] + (1 - beta2) * g * g;
    const double m_hat = s.m[i] / (1 - std::pow(beta1, t));
    const double v_hat = s.v[i] / (1 - std::pow(beta2, t));
    s.master[i] -= o.lr * (m_hat / (std::sqrt(v_hat) + o.eps) + o.weight_decay * s.master[i]);
  }
}

class AdamWTest : public OpTest {
 protected:
  ops::UpdateScalars scalars(Stream& s, float clip) {
    return {make_tensor(s, DType::f32, {1}, {clip}), make_tensor(s, DType::f32, {1}, {1}),
            make_tensor(s, DType::i32, {1}, {0})};
  }
};

TEST_P(AdamWTest, FollowsTheReferenceForSteps) {
  for (const int64_t n : {0, 1, 3, 17, 63, 65, 130, 40001}) {
    ops::AdamW options{.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
    Tensor master = normal(DType::f32, {n}, "master");
    Tensor m = tensor(DType::f32, {n}, Values(static_cast<size_t>(n)));
    Tensor v = tensor(DType::f32, {n}, Values(static_cast<size_t>(n)));
    Tensor weight = unset(DType::bf16, {n});
    const ops::UpdateScalars s = scalars(stream(), 0.5f);
    State want{read(master), read(m), read(v)};
    const Values start = want.master;
    for (options.step = 1; options.step <= 5; ++options.step) {
      const Tensor grad = normal(DType::f32, {n}, "grad" + std::to_string(options.step));
      ops::adamw_update(stream(), options, s, grad, master, m, v, weight);
      reference_adamw(options, 0.5, read(grad), want);
    }
    const double limit = tolerance(DType::f32, OpKind::elementwise);
    expect_close(read(m), want.m, limit, "m");
    expect_close(read(v), want.v, limit, "v");
    expect_close(read(master), want.master, limit, "master");
    // The change itself: of size lr, read through the rounding of five sums with a weight of size 1.
    expect_close(plus(read(master), -1, start), plus(want.master, -1, start), 5e-5, "change");
    Tensor rounded = tensor(DType::bf16, {n}, read(master));
    EXPECT_EQ(read(weight), read(rounded));
  }
}

TEST_P(AdamWTest, AnyCutGivesTheSameBits) {
  const int64_t n = 1000;
  const ops::AdamW options{.lr = 1e-3f, .weight_decay = 0.1f, .step = 3};
  const ops::UpdateScalars s = scalars(stream(), 0.7f);
  const Tensor grad = normal(DType::f32, {n}, "grad");
  for (const bool with_weight : {false, true}) {
    std::vector<Tensor> whole;
    for (const char* name : {"master", "m", "v"})
      whole.push_back(tensor(DType::f32, {n}, plus(Values(1000, 1.5), 0.1, normal_values(n, name))));
    std::vector<Tensor> cut;
    for (const Tensor& t : whole) cut.push_back(tensor(DType::f32, {n}, read(t)));
    Tensor weight = with_weight ? unset(DType::bf16, {n}) : Tensor();
    Tensor weight_cut = with_weight ? unset(DType::bf16, {n}) : Tensor();
    ops::adamw_update(stream(), options, s, grad, whole[0], whole[1], whole[2], weight);
    int64_t begin = 0;
    for (const int64_t size : {1, 2, 5, 16, 17, 31, 63, 65, 300, 500}) {
      Tensor master = cut[0].slice(begin, begin + size);
      Tensor m = cut[1].slice(begin, begin + size);
      Tensor v = cut[2].slice(begin, begin + size);
      Tensor w = with_weight ? weight_cut.slice(begin, begin + size) : Tensor();
      ops::adamw_update(stream(), options, s, grad.slice(begin, begin + size), master, m, v, w);
      begin += size;
    }
    ASSERT_EQ(begin, n);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(read(whole[i]), read(cut[i])) << i;
    if (with_weight) {
      EXPECT_EQ(read(weight), read(weight_cut));
    }
  }
}

TEST_P(AdamWTest, SameBitsOnAnyPool) {
  expect_same_bits_on_any_pool([&](Stream& s) {
    const int64_t n = 100003;
    const Tensor grad = make_tensor(s, DType::f32, {n}, normal_values(n, "grad"));
    Tensor master = make_tensor(s, DType::f32, {n}, normal_values(n, "master"));
    Tensor m = make_tensor(s, DType::f32, {n}, Values(static_cast<size_t>(n)));
    Tensor v = make_tensor(s, DType::f32, {n}, Values(static_cast<size_t>(n)));
    Tensor weight = make_unset(s, DType::bf16, {n});
    ops::adamw_update(s, {.lr = 1e-3f}, scalars(s, 1.0f), grad, master, m, v, weight);
    return std::vector<Tensor>{master, m, v, weight};
  });
}

TEST_P(AdamWTest, ChangesNothingOnceNonFinite) {
  ops::UpdateScalars s = scalars(stream(), 1.0f);
  Tensor grad = tensor(DType::f32, {2}, {1, std::numeric_limits<double>::quiet_NaN()});
  Tensor master = tensor(DType::f32, {2}, {1, 2});
  Tensor m = tensor(DType::f32, {2}, {3, 4});
  Tensor v = tensor(DType::f32, {2}, {5, 6});
  Tensor weight = tensor(DType::bf16, {2}, {7, 8});
  const Tensor infinite = tensor(DType::f64, {1}, {std::numeric_limits<double>::infinity()});
  const Tensor one = tensor(DType::f64, {1}, {1});
  ops::prepare_update(stream(), infinite, one, 1.0f, s);
  EXPECT_EQ(read(s.non_finite), Values{1});
  ops::prepare_update(stream(), one, one, 1.0f, s);
  EXPECT_EQ(read(s.non_finite), Values{1}) << "sticky";
  ops::adamw_update(stream(), {.lr = 1}, s, grad, master, m, v, weight);
  EXPECT_EQ(read(master), (Values{1, 2}));
  EXPECT_EQ(read(m), (Values{3, 4}));
  EXPECT_EQ(read(v), (Values{5, 6}));
  EXPECT_EQ(read(weight), (Values{7, 8}));
}

TEST_P(AdamWTest, PrepareUpdate) {
  const Tensor loss = tensor(DType::f64, {1}, {2.5});
  const auto run = [&](double sum_squares, float max_norm) {
    ops::UpdateScalars s = scalars(stream(), 0.0f);
    ops::prepare_update(stream(), tensor(DType::f64, {1}, {sum_squares}), loss, max_norm, s);
    return Values{read(s.grad_norm)[0], read(s.clip_factor)[0], read(s.non_finite)[0]};
  };
  expect_close(run(16, 1), {4, 1 / (4 + 1e-6), 0}, 1e-7, "clipped");
  EXPECT_EQ(run(16, 5), (Values{4, 1, 0})) << "below the limit";
  EXPECT_EQ(run(16, 0), (Values{4, 1, 0})) << "no limit";
  EXPECT_EQ(run(0, 1), (Values{0, 1, 0})) << "no gradient";
  EXPECT_EQ(run(std::numeric_limits<double>::infinity(), 1)[2], 1);
  EXPECT_EQ(run(std::numeric_limits<double>::quiet_NaN(), 1)[2], 1);
  EXPECT_EQ(run(1e80, 1)[2], 1) << "a norm that fp32 does not hold";

  ops::UpdateScalars s = scalars(stream(), 0.0f);
  const Tensor nan_loss = tensor(DType::f64, {1}, {std::numeric_limits<double>::quiet_NaN()});
  ops::prepare_update(stream(), tensor(DType::f64, {1}, {1}), nan_loss, 1.0f, s);
  EXPECT_EQ(read(s.non_finite)[0], 1);
}

TRIREME_OP_DEVICES(AdamWTest);

}  // namespace
}  // namespace trireme::testing
