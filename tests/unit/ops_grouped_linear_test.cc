#include "core/ops/grouped_linear.h"

#include <algorithm>

#include "core/ops/linear.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

struct GroupedCase {
  std::string name;
  std::vector<int64_t> offsets;
  int64_t in, out;

  int64_t rows() const { return offsets.back(); }
  int64_t num_groups() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t group_of(int64_t row) const {
    return std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
  }
};

// Sizes that 16 bytes divide and others: on a GPU two libraries compute them.
const std::vector<GroupedCase> kCases = {
    {"one group", {0, 17}, 24, 16},
    {"one group, odd", {0, 5}, 7, 3},
    {"no rows", {0, 0, 0, 0}, 16, 8},
    {"no rows, odd", {0, 0, 0}, 3, 5},
    {"even", {0, 8, 16, 24, 32}, 16, 24},
    {"skewed", {0, 1, 1, 66, 79, 79, 80}, 40, 32},
    {"empty at both ends, odd", {0, 0, 9, 12, 12, 33, 33}, 13, 9},
    {"all rows in one of many", {0, 0, 0, 70, 70, 70}, 64, 72},
    {"more groups than rows", {0, 0, 1, 1, 2, 2, 2, 3, 3}, 8, 8},
    {"larger than tiles", {0, 130, 131, 330}, 136, 144},
};

struct Gradients {
  Values dx, dw;
};

Values reference_forward(const GroupedCase& c, const Values& x, const Values& w) {
  Values y(static_cast<size_t>(c.rows() * c.out));
  for (int64_t r = 0; r < c.rows(); ++r) {
    const int64_t g = c.group_of(r);
    for (int64_t o = 0; o < c.out; ++o) {
      for (int64_t i = 0; i < c.in; ++i) {
        y[static_cast<size_t>(r * c.out + o)] +=
            x[static_cast<size_t>(r * c.in + i)] * w[static_cast<size_t>((g * c.out + o) * c.in + i)];
      }
    }
  }
  return y;
}

Gradients reference_gradients(const GroupedCase& c, const Values& dy, const Values& x, const Values& w) {
  Gradients result{Values(x.size()), Values(w.size())};
  for (int64_t r = 0; r < c.rows(); ++r) {
    const int64_t g = c.group_of(r);
    for (int64_t o = 0; o < c.out; ++o) {
      const double d = dy[static_cast<size_t>(r * c.out + o)];
      for (int64_t i = 0; i < c.in; ++i) {
        const auto weight = static_cast<size_t>((g * c.out + o) * c.in + i);
        result.dx[static_cast<size_t>(r * c.in + i)] += d * w[weight];
        result.dw[weight] += d * x[static_cast<size_t>(r * c.in + i)];
      }
    }
  }
  return result;
}

class GroupedLinearTest : public OpTest {
 protected:
  struct Inputs {
    Tensor x, weight, dy;
  };
  Inputs inputs(const GroupedCase& c, DType dtype) {
    return {normal(dtype, {c.rows(), c.in}, "x"), normal(dtype, {c.num_groups() * c.out, c.in}, "weight"),
            normal(dtype, {c.rows(), c.out}, "dy")};
  }

  struct Results {
    Tensor y, dx, dw;
  };
  Results compute(const GroupedCase& c, const Inputs& in) {
    Results out{unset(in.x.dtype(), in.dy.shape()), unset(in.x.dtype(), in.x.shape()),
                unset(DType::f32, in.weight.shape())};
    ops::grouped_linear_forward(stream(), in.x, in.weight, c.offsets, out.y);
    ops::grouped_linear_backward_input(stream(), in.dy, in.weight, c.offsets, out.dx);
    ops::grouped_linear_backward_weight(stream(), in.dy, in.x, c.offsets, out.dw, /*accumulate=*/false);
    return out;
  }
};

TEST_P(GroupedLinearTest, MatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const GroupedCase& c : kCases) {
      const std::string what = dtype_name(dtype) + " " + c.name;
      const auto [x, weight, dy] = inputs(c, dtype);
      const double limit = tolerance(dtype, OpKind::matmul);

      Tensor y = unset(dtype, {c.rows(), c.out});
      ops::grouped_linear_forward(stream(), x, weight, c.offsets, y);
      expect_close(read(y), reference_forward(c, read(x), read(weight)), limit, "y " + what);

      const Gradients want = reference_gradients(c, read(dy), read(x), read(weight));
      Tensor dx = unset(dtype, {c.rows(), c.in});
      ops::grouped_linear_backward_input(stream(), dy, weight, c.offsets, dx);
      expect_close(read(dx), want.dx, limit, "dx " + what);

      for (const DType grad_dtype : {DType::f32, DType::bf16}) {
        const double grad_limit = tolerance(grad_dtype, OpKind::matmul);
        Tensor dw = unset(grad_dtype, weight.shape());
        ops::grouped_linear_backward_weight(stream(), dy, x, c.offsets, dw, /*accumulate=*/false);
        expect_close(read(dw), want.dw, grad_limit, "dw " + what);
        Tensor sum = normal(grad_dtype, weight.shape(), "before");
        const Values want_sum = plus(want.dw, 1, read(sum));
        ops::grouped_linear_backward_weight(stream(), dy, x, c.offsets, sum, /*accumulate=*/true);
        expect_close(read(sum), want_sum, grad_limit, "dw added " + what);
      }
    }
  }
}

// The analytic gradients above are those of the reference's forward pass.
TEST_P(GroupedLinearTest, ReferenceGradientsAreSlopes) {
  const GroupedCase c{"", {0, 2, 2, 5}, 4, 3};
  const Values x = normal_values(20, "x");
  const Values w = normal_values(36, "w");
  const Values dy = normal_values(15, "dy");
  const Gradients got = reference_gradients(c, dy, x, w);
  expect_close(got.dx, gradient_of([&](const Values& v) { return dot(dy, reference_forward(c, v, w)); }, x), 1e-8,
               "dx");
  expect_close(got.dw, gradient_of([&](const Values& v) { return dot(dy, reference_forward(c, x, v)); }, w), 1e-8,
               "dw");
}

// What a group's rows give does not depend on the other groups, and is what the linear layer of that group gives.
TEST_P(GroupedLinearTest, MatchesLinearLayersOneByOne) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const GroupedCase& c : kCases) {
      const std::string what = dtype_name(dtype) + " " + c.name;
      const Inputs in = inputs(c, dtype);
      const auto& [x, weight, dy] = in;
      const auto [y, dx, dw] = compute(c, in);
      Tensor want_y = unset(dtype, y.shape());
      Tensor want_dx = unset(dtype, dx.shape());
      Tensor want_dw = unset(DType::f32, dw.shape());
      for (int64_t g = 0; g < c.num_groups(); ++g) {
        const int64_t begin = c.offsets[static_cast<size_t>(g)];
        const int64_t end = c.offsets[static_cast<size_t>(g) + 1];
        const Tensor w = weight.slice(g * c.out, (g + 1) * c.out);
        Tensor y_rows = want_y.slice(begin, end);
        Tensor dx_rows = want_dx.slice(begin, end);
        Tensor dw_rows = want_dw.slice(g * c.out, (g + 1) * c.out);
        Tensor none;
        ops::linear_forward(stream(), x.slice(begin, end), w, none, y_rows);
        ops::linear_backward_input(stream(), dy.slice(begin, end), w, dx_rows, /*accumulate=*/false);
        ops::linear_backward_weight(stream(), dy.slice(begin, end), x.slice(begin, end), dw_rows, none,
                                    /*accumulate=*/false);
      }
      expect_close(read(y), read(want_y), tolerance(dtype, OpKind::matmul), "y " + what);
      expect_close(read(dx), read(want_dx), tolerance(dtype, OpKind::matmul), "dx " + what);
      expect_close(read(dw), read(want_dw), tolerance(DType::f32, OpKind::matmul), "dw " + what);
    }
  }
}

// With what was there before: each of two rows alone would vanish beside 256. Widths that 16 bytes divide and not.
TEST_P(GroupedLinearTest, GradientsInBf16RoundOncePerCall) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t width : {1, 8}) {
      const auto size = static_cast<size_t>(2 * width);
      const Tensor dy = tensor(dtype, {2, width}, Values(size, 0.75));
      const Tensor x = tensor(dtype, {2, width}, Values(size, 1));
      Tensor dw = tensor(DType::bf16, {2 * width, width}, Values(static_cast<size_t>(2 * width * width), 256));
      const std::vector<int64_t> offsets = {0, 2, 2};
      ops::grouped_linear_backward_weight(stream(), dy, x, offsets, dw, /*accumulate=*/true);
      Values want(static_cast<size_t>(2 * width * width), 256);
      std::fill_n(want.begin(), width * width, 258);
      EXPECT_EQ(read(dw), want) << dtype_name(dtype) << " " << width;
    }
  }
}

// Calls of one kind with other rows each time, as training makes them, and the same call again.
TEST_P(GroupedLinearTest, RepeatsItsBits) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<std::vector<std::byte>> first;
    for (int round = 0; round < 2; ++round) {
      size_t at = 0;
      for (const int64_t cut : {100, 37, 61, 3}) {
        const GroupedCase c{"", {0, cut, 128, 128 + cut}, 96, 80};
        const auto [y, dx, dw] = compute(c, inputs(c, dtype));
        for (const Tensor& t : {y, dx, dw}) {
          const std::vector<std::byte> bytes = read_bytes(stream(), t);
          if (round == 0) {
            first.push_back(bytes);
          } else {
            EXPECT_EQ(bytes, first[at++]) << dtype_name(dtype) << " " << cut;
          }
        }
      }
    }
  }
}

TEST_P(GroupedLinearTest, OffsetsThatDontFitAreBugs) {
  const Tensor x = normal(DType::f32, {4, 3}, "x");
  const Tensor weight = normal(DType::f32, {10, 3}, "weight");
  Tensor y = unset(DType::f32, {4, 5});
  using Offsets = std::vector<int64_t>;
  for (const Offsets& offsets : {Offsets{}, Offsets{0, 4}, Offsets{0, 2, 3}, Offsets{1, 2, 4}, Offsets{0, 5, 4},
                                 Offsets{0, 2, 5}, Offsets{0, 1, 2, 4}}) {
    EXPECT_THROW(ops::grouped_linear_forward(stream(), x, weight, offsets, y), BugError);
  }
  ops::grouped_linear_forward(stream(), x, weight, Offsets{0, 2, 4}, y);
}

TRIREME_OP_DEVICES(GroupedLinearTest);

}  // namespace
}  // namespace trireme::testing
