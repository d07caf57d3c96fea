#include <bit>
#include <cmath>
#include <limits>

#include "core/ops/adamw.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
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

using ops::UpdateRange;
using Ranges = std::vector<UpdateRange>;

Tensor make_ranges(Stream& s, const Ranges& rows) {
  Tensor table = Tensor::empty(s, {static_cast<int64_t>(rows.size()), ops::kUpdateRangeColumns}, DType::i64);
  ops::copy_from_host(s, rows.data(), table);
  return table;
}

int64_t key_of(const std::string& name) { return std::bit_cast<int64_t>(random_key(7, name)); }

// Four parameters in [0, n) with padding between: the second follows the first at an odd place, the third begins in the
// middle of its parameter, the fourth takes what is left.
Ranges mixed_ranges(int64_t n) {
  TRIREME_CHECK(n > 400);
  return {{0, 61, 1, key_of("a"), 0},
          {61, 190, 0, key_of("b"), 0},
          {192, 333, 1, key_of("c"), 12345},
          {384, n - 3, 0, key_of("d"), 0}};
}

// The part of the table that speaks of positions [begin, end), counted from begin.
Ranges cut_ranges(const Ranges& rows, int64_t begin, int64_t end) {
  Ranges part;
  for (const UpdateRange& row : rows) {
    const int64_t from = std::max(begin, row.begin);
    const int64_t to = std::min(end, row.end);
    if (from >= to) continue;
    part.push_back({from - begin, to - begin, row.decays, row.key, row.first + from - row.begin, row.columns,
                    row.stride, row.origin});
  }
  return part;
}

// What a run stores, and the dtype of its gradients.
struct Mode {
  std::string name;
  DType grad, moments;
  bool with_master, with_weight;
};

std::vector<Mode> all_modes() {
  std::vector<Mode> modes;
  for (const DType grad : {DType::f32, DType::bf16}) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      const std::string dtypes = dtype_name(grad) + " gradients, " + dtype_name(moments) + " moments, ";
      modes.push_back({dtypes + "master", grad, moments, true, false});
      modes.push_back({dtypes + "master and weight", grad, moments, true, true});
      modes.push_back({dtypes + "weight", grad, moments, false, true});
    }
  }
  return modes;
}

// Gradients and states of n elements whose values bf16 holds, so that every mode can begin with the same ones.
class Bench {
 public:
  explicit Bench(int64_t n) : n_(n) {
    grad_ = in_bf16(normal_values(n, "grad"));
    weight_ = in_bf16(plus(Values(static_cast<size_t>(n), 1.5), 0.4, normal_values(n, "weight")));
    m_ = in_bf16(normal_values(n, "m", 0.3));
    v_ = in_bf16(normal_values(n, "v", 0.5));
    for (double& v : v_) v *= v;
    v_ = in_bf16(v_);
  }

  ops::AdamWTensors state(Stream& s, const Mode& mode) const {
    return {.master = mode.with_master ? make_tensor(s, DType::f32, {n_}, weight_) : Tensor(),
            .weight = mode.with_weight ? make_tensor(s, DType::bf16, {n_}, weight_) : Tensor(),
            .m = make_tensor(s, mode.moments, {n_}, m_),
            .v = make_tensor(s, mode.moments, {n_}, v_)};
  }
  Tensor grad(Stream& s, const Mode& mode) const { return make_tensor(s, mode.grad, {n_}, grad_); }

 private:
  static Values in_bf16(Values values) {
    for (double& v : values) v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
    return values;
  }

  int64_t n_;
  Values grad_, weight_, m_, v_;
};

// Those of the tensors that are there.
std::vector<Tensor> defined_ones(const ops::AdamWTensors& state) {
  std::vector<Tensor> list{state.m, state.v};
  if (state.master.defined()) list.push_back(state.master);
  if (state.weight.defined()) list.push_back(state.weight);
  return list;
}

ops::AdamWTensors slice(const ops::AdamWTensors& state, int64_t begin, int64_t end) {
  const auto part = [&](const Tensor& t) { return t.defined() ? t.slice(begin, end) : Tensor(); };
  return {part(state.master), part(state.weight), part(state.m), part(state.v)};
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
    const Tensor ranges = make_ranges(stream(), {{0, n, 1, key_of("w"), 0}});
    const Values zeros(static_cast<size_t>(n));
    ops::AdamWTensors state{.master = normal(DType::f32, {n}, "master"),
                            .weight = unset(DType::bf16, {n}),
                            .m = tensor(DType::f32, {n}, zeros),
                            .v = tensor(DType::f32, {n}, zeros)};
    const ops::UpdateScalars s = scalars(stream(), 0.5f);
    State want{read(state.master), read(state.m), read(state.v)};
    const Values start = want.master;
    for (options.step = 1; options.step <= 5; ++options.step) {
      const Tensor grad = normal(DType::f32, {n}, "grad" + std::to_string(options.step));
      ops::adamw_update(stream(), options, s, ranges, grad, state);
      reference_adamw(options, 0.5, read(grad), want);
    }
    const double limit = tolerance(DType::f32, OpKind::elementwise);
    expect_close(read(state.m), want.m, limit, "m");
    expect_close(read(state.v), want.v, limit, "v");
    expect_close(read(state.master), want.master, limit, "master");
    // The change itself: of size lr, read through the rounding of five sums with a weight of size 1.
    expect_close(plus(read(state.master), -1, start), plus(want.master, -1, start), 5e-5, "change");
    Tensor rounded = tensor(DType::bf16, {n}, read(state.master));
    EXPECT_EQ(read(state.weight), read(rounded));
  }
}

// Weight decay acts in the ranges that say so, and padding stays as it is.
TEST_P(AdamWTest, RangesDecide) {
  const int64_t n = 1000;
  const Ranges rows = mixed_ranges(n);
  const Bench bench(n);
  const Mode mode{"", DType::f32, DType::f32, true, true};
  const ops::AdamW options{.lr = 1e-2f, .weight_decay = 0.1f, .step = 2};
  const Tensor grad = bench.grad(stream(), mode);
  ops::AdamWTensors state = bench.state(stream(), mode);
  const Values start = read(state.master);
  const auto reference = [&](float decay) {
    State want{start, read(state.m), read(state.v)};
    ops::AdamW o = options;
    o.weight_decay = decay;
    reference_adamw(o, 0.5, read(grad), want);
    return want.master;
  };
  const Values decayed = reference(options.weight_decay);
  const Values plain = reference(0);
  Values want = start;
  for (const UpdateRange& row : rows) {
    const Values& from = row.decays != 0 ? decayed : plain;
    for (auto i = static_cast<size_t>(row.begin); i < static_cast<size_t>(row.end); ++i) want[i] = from[i];
  }
  const Values m_before = read(state.m);
  ops::adamw_update(stream(), options, scalars(stream(), 0.5f), make_ranges(stream(), rows), grad, state);
  const Values got = read(state.master);
  expect_close(got, want, tolerance(DType::f32, OpKind::elementwise), "master");
  for (const size_t padding : {190u, 191u, 333u, 383u, 997u, 999u}) {
    EXPECT_EQ(got[padding], start[padding]) << padding;
    EXPECT_EQ(read(state.m)[padding], m_before[padding]) << padding;
  }
}

// The bf16 neighbour of `value` that the draw selects: the one further from 0 for `fraction of the way` · 65536 of the
// 65536 draws. Written with fp64 arithmetic on the values, not on bits.
double reference_round(double value, uint32_t draw) {
  if (value == 0) return 0;
  int exponent = 0;
  std::frexp(value, &exponent);                     // |value| in [2^(exponent − 1), 2^exponent)
  const double unit = std::ldexp(1, exponent - 8);  // bf16 has 8 digits
  const double below = std::floor(std::abs(value) / unit) * unit;
  const double fraction = (std::abs(value) - below) / unit;
  const double magnitude = draw + fraction * 65536 >= 65536 ? below + unit : below;
  return std::copysign(magnitude, value);
}

// The draw for an element of a parameter: (seed, name) make the key; step and what is rounded the second counter.
uint32_t reference_draw(int64_t key, int64_t step, uint64_t what, int64_t element) {
  const PhiloxBlock block = philox4x32(std::bit_cast<uint64_t>(key), static_cast<uint64_t>(element / 8),
                                       static_cast<uint64_t>(step) * 4 + what);
  const uint32_t word = block.x[element % 8 / 2];
  return element % 2 == 0 ? word % 65536 : word / 65536;
}

// Every mode computes what the all-fp32 one computes (which the reference above vouches for), and then rounds with the
// draws of the contract.
TEST_P(AdamWTest, RoundsStochasticallyWithTheDrawsOfItsContract) {
  for (const int64_t n : {401, 1000, 20000}) {
    const Ranges rows = mixed_ranges(n);
    const Bench bench(n);
    const ops::AdamW options{.lr = 1e-2f, .weight_decay = 0.1f, .step = 3};
    const ops::UpdateScalars s = scalars(stream(), 0.7f);
    const Tensor ranges = make_ranges(stream(), rows);
    const Mode wide{"", DType::f32, DType::f32, true, false};
    ops::AdamWTensors exact = bench.state(stream(), wide);
    ops::adamw_update(stream(), options, s, ranges, bench.grad(stream(), wide), exact);
    for (const Mode& mode : all_modes()) {
      ops::AdamWTensors state = bench.state(stream(), mode);
      ops::adamw_update(stream(), options, s, ranges, bench.grad(stream(), mode), state);
      const auto rounded = [&](const Tensor& from, uint64_t what) {
        Values values = read(from);
        for (const UpdateRange& row : rows) {
          for (int64_t i = row.begin; i < row.end; ++i) {
            double& x = values[static_cast<size_t>(i)];
            x = reference_round(x, reference_draw(row.key, options.step, what, i - row.begin + row.first));
          }
        }
        return values;
      };
      const bool narrow = mode.moments == DType::bf16;
      EXPECT_EQ(read(state.m), narrow ? rounded(exact.m, 1) : read(exact.m)) << mode.name;
      EXPECT_EQ(read(state.v), narrow ? rounded(exact.v, 2) : read(exact.v)) << mode.name;
      if (mode.with_master) {
        EXPECT_EQ(read(state.master), read(exact.master)) << mode.name;
      }
      if (mode.with_weight) {
        Tensor nearest = tensor(DType::bf16, {n}, read(exact.master));
        EXPECT_EQ(read(state.weight), mode.with_master ? read(nearest) : rounded(exact.master, 0)) << mode.name;
      }
    }
  }
}

TEST_P(AdamWTest, AnyCutGivesTheSameBits) {
  const int64_t n = 1000;
  const Bench bench(n);
  const Ranges rows = mixed_ranges(n);
  const ops::AdamW options{.lr = 1e-3f, .weight_decay = 0.1f, .step = 3};
  const ops::UpdateScalars s = scalars(stream(), 0.7f);
  for (const Mode& mode : all_modes()) {
    const Tensor grad = bench.grad(stream(), mode);
    ops::AdamWTensors whole = bench.state(stream(), mode);
    ops::AdamWTensors cut = bench.state(stream(), mode);
    ops::adamw_update(stream(), options, s, make_ranges(stream(), rows), grad, whole);
    int64_t begin = 0;
    for (const int64_t size : {8, 16, 8, 64, 40, 128, 64, 200, 472}) {
      ops::AdamWTensors part = slice(cut, begin, begin + size);
      const Tensor ranges = make_ranges(stream(), cut_ranges(rows, begin, begin + size));
      ops::adamw_update(stream(), options, s, ranges, grad.slice(begin, begin + size), part);
      begin += size;
    }
    ASSERT_EQ(begin, n);
    const std::vector<Tensor> a = defined_ones(whole);
    const std::vector<Tensor> b = defined_ones(cut);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(read(a[i]), read(b[i])) << mode.name << ", tensor " << i;
  }
}

// A rank that holds some columns of a matrix moves them with the bits that they have in the whole, and leaves the padding
// behind them alone: whatever the shape, and wherever a shard cuts it.
TEST_P(AdamWTest, ColumnsHaveTheBitsOfTheWhole) {
  struct Case {
    int64_t rows, stride, columns;  // columns: of each of the ranks, padding included
  };
  for (const Case& c :
       {Case{9, 48, 16}, Case{9, 48, 24}, Case{21, 37, 16}, Case{7, 37, 13}, Case{130, 24, 8}, Case{3, 1040, 520}}) {
    SCOPED_TRACE(std::to_string(c.rows) + " × " + std::to_string(c.stride) + " by " + std::to_string(c.columns));
    const int64_t n = c.rows * c.stride;
    const Bench bench(n);
    const ops::AdamW options{.lr = 1e-3f, .weight_decay = 0.1f, .step = 3};
    const ops::UpdateScalars s = scalars(stream(), 0.7f);
    for (const Mode& mode : all_modes()) {
      ops::AdamWTensors whole = bench.state(stream(), mode);
      const ops::AdamWTensors before = bench.state(stream(), mode);
      const Tensor grad = bench.grad(stream(), mode);
      ops::adamw_update(stream(), options, s, make_ranges(stream(), {{0, n, 1, key_of("w"), 0}}), grad, whole);
      for (int64_t origin = 0; origin < c.stride; origin += c.columns) {
        // Held: rows of `columns`; 5 stands where there is padding, to be left alone.
        const int64_t held = c.rows * c.columns;
        const auto cut = [&](const Tensor& t) {
          if (!t.defined()) return Tensor();
          const Values from = read(t);
          Values to(static_cast<size_t>(held), 5);
          for (int64_t r = 0; r < c.rows; ++r) {
            for (int64_t k = 0; k < std::min(c.columns, c.stride - origin); ++k) {
              to[static_cast<size_t>(r * c.columns + k)] = from[static_cast<size_t>(r * c.stride + origin + k)];
            }
          }
          return make_tensor(stream(), t.dtype(), {held}, to);
        };
        const ops::AdamWTensors want{cut(whole.master), cut(whole.weight), cut(whole.m), cut(whole.v)};
        ops::AdamWTensors got{cut(before.master), cut(before.weight), cut(before.m), cut(before.v)};
        const Tensor own_grad = cut(grad);
        const Ranges rows = {{0, held, 1, key_of("w"), 0, c.columns, c.stride, origin}};
        const int64_t middle = held / 2 / 8 * 8;
        for (const auto& [begin, end] : {std::pair{int64_t{0}, middle}, std::pair{middle, held}}) {
          if (begin == end) continue;
          ops::AdamWTensors part = slice(got, begin, end);
          ops::adamw_update(stream(), options, s, make_ranges(stream(), cut_ranges(rows, begin, end)),
                            own_grad.slice(begin, end), part);
        }
        const std::vector<Tensor> a = defined_ones(want);
        const std::vector<Tensor> b = defined_ones(got);
        for (size_t i = 0; i < a.size(); ++i) {
          EXPECT_EQ(read(b[i]), read(a[i])) << mode.name << ", columns from " << origin << ", tensor " << i;
        }
      }
    }
  }
}

TEST_P(AdamWTest, SameBitsOnAnyPool) {
  const int64_t n = 100003;
  const Bench bench(n);
  for (const Mode& mode : all_modes()) {
    SCOPED_TRACE(mode.name);
    expect_same_bits_on_any_pool([&](Stream& s) {
      ops::AdamWTensors state = bench.state(s, mode);
      ops::adamw_update(s, {.lr = 1e-3f}, scalars(s, 1.0f), make_ranges(s, mixed_ranges(n)), bench.grad(s, mode),
                        state);
      return defined_ones(state);
    });
  }
}

// A change far below what bf16 resolves: the mean over the elements of one parameter moves by it all the same, step
// after step, as do the moments. The draws are fixed; the bounds are five standard deviations of a fair rounding.
TEST_P(AdamWTest, SmallChangesAddUpInTheMean) {
  const int64_t n = 8192;
  const int num_steps = 200;
  const auto count = static_cast<size_t>(n);
  const Tensor ranges = make_ranges(stream(), {{0, n, 0, key_of("w"), 0}});
  const Tensor grad = tensor(DType::f32, {n}, Values(count, 1));
  // m̂/√v̂ is 1 from the first step on, and a beta2 of 0.9999 moves v by 2⁻⁸ of the gradient's square in 39 steps.
  ops::AdamW options{.lr = 1e-5f, .beta1 = 0.9f, .beta2 = 0.9999f, .eps = 0};
  const ops::UpdateScalars s = scalars(stream(), 1.0f);
  ops::AdamWTensors state{.weight = tensor(DType::bf16, {n}, Values(count, 1)),
                          .m = tensor(DType::bf16, {n}, Values(count)),
                          .v = tensor(DType::bf16, {n}, Values(count))};
  State want{Values(1, 1), Values(1), Values(1)};
  for (options.step = 1; options.step <= num_steps; ++options.step) {
    ops::adamw_update(stream(), options, s, ranges, grad, state);
    reference_adamw(options, 1, Values(1, 1), want);
  }
  const auto mean = [&](const Tensor& t) {
    double sum = 0;
    for (const double x : read(t)) sum += x;
    return sum / static_cast<double>(n);
  };
  // A rounding's standard deviation is at most half a unit; the roundings of a weight add up over the steps.
  const double elements = std::sqrt(static_cast<double>(n));
  const double steps = std::sqrt(static_cast<double>(num_steps));
  EXPECT_NEAR(mean(state.weight), want.master[0], 5 * 0x1p-8 / 2 * steps / elements);
  EXPECT_NEAR(mean(state.v), want.v[0], 5 * want.v[0] * 0x1p-7 / 2 * steps / elements);
  EXPECT_NEAR(mean(state.m), want.m[0], 5 * 0x1p-8 / 2 * 3 / elements);  // older roundings fade with beta1
  EXPECT_LT(want.master[0], 1 - 1.9e-3) << "the change that rounding to nearest would lose";
}

// Neighbours, steps, parameters and the three things that are rounded draw independently: the fraction of equal results
// for a value half-way between two neighbours is one half.
TEST_P(AdamWTest, DrawsAreIndependent) {
  const int64_t n = 4096;
  const Tensor ranges = make_ranges(stream(), {{0, n, 0, key_of("a"), 0}});
  const auto rounded = [&](const Tensor& table, int64_t step) {
    // No gradient and betas of 1 + 2⁻⁸ bring both moments half-way from 1 to the next bf16, 1 + 2⁻⁷.
    const ops::AdamW options{.lr = 0, .beta1 = 1 + 0x1p-8f, .beta2 = 1 + 0x1p-8f, .eps = 1, .step = step};
    const Values ones(static_cast<size_t>(n), 1);
    ops::AdamWTensors state{.master = tensor(DType::f32, {n}, ones),
                            .m = tensor(DType::bf16, {n}, ones),
                            .v = tensor(DType::bf16, {n}, ones)};
    const Tensor grad = tensor(DType::f32, {n}, Values(static_cast<size_t>(n)));
    ops::adamw_update(stream(), options, scalars(stream(), 1.0f), table, grad, state);
    return std::pair{read(state.m), read(state.v)};
  };
  const auto agree = [&](const Values& a, const Values& b, size_t shift) {
    size_t equal = 0;
    for (size_t i = 0; i + shift < a.size(); ++i) equal += (a[i + shift] > 1) == (b[i] > 1) ? 1 : 0;
    return static_cast<double>(equal) / static_cast<double>(a.size() - shift);
  };
  const double limit = 5 * 0.5 / std::sqrt(static_cast<double>(n));
  const auto [m, v] = rounded(ranges, 1);
  const auto [m_next, v_next] = rounded(ranges, 2);
  const auto [m_other, v_other] = rounded(make_ranges(stream(), {{0, n, 0, key_of("b"), 0}}), 1);
  EXPECT_NEAR(agree(m, Values(m.size(), 2), 0), 0.5, limit) << "up as often as down";
  EXPECT_NEAR(agree(m, v, 0), 0.5, limit);
  EXPECT_NEAR(agree(m, m_next, 0), 0.5, limit);
  EXPECT_NEAR(agree(m, m_other, 0), 0.5, limit);
  for (const size_t shift : {1, 2, 4, 8, 16}) EXPECT_NEAR(agree(m, m, shift), 0.5, limit) << shift;
  EXPECT_EQ(rounded(ranges, 1).first, m) << "and they repeat";
}

TEST_P(AdamWTest, ChangesNothingOnceNonFinite) {
  ops::UpdateScalars s = scalars(stream(), 1.0f);
  const Tensor infinite = tensor(DType::f64, {1}, {std::numeric_limits<double>::infinity()});
  const Tensor one = tensor(DType::f64, {1}, {1});
  ops::prepare_update(stream(), infinite, one, 1.0f, s);
  EXPECT_EQ(read(s.non_finite), Values{1});
  ops::prepare_update(stream(), one, one, 1.0f, s);
  EXPECT_EQ(read(s.non_finite), Values{1}) << "sticky";
  const int64_t n = 500;
  const Bench bench(n);
  for (const Mode& mode : all_modes()) {
    ops::AdamWTensors state = bench.state(stream(), mode);
    std::vector<Values> before;
    for (const Tensor& t : defined_ones(state)) before.push_back(read(t));
    ops::adamw_update(stream(), {.lr = 1}, s, make_ranges(stream(), mixed_ranges(n)), bench.grad(stream(), mode),
                      state);
    const std::vector<Tensor> after = defined_ones(state);
    for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(read(after[i]), before[i]) << mode.name;
  }
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
