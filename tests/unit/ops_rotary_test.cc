#include <cmath>

#include "core/ops/rotary.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

struct RotaryCase {
  int64_t rows, columns, rotated, dim;
};

const std::vector<RotaryCase> kCases = {{0, 12, 2, 4},       {1, 6, 2, 2},          {3, 20, 2, 6},
                                        {17, 3 * 34, 2, 34}, {65, 4 * 130, 3, 130}, {5, 3 * 32, 2, 32},
                                        {33, 7 * 16, 5, 16}, {9, 10 * 64, 9, 64}};

Values make_table(int64_t positions, int64_t dim) {
  Values table;
  for (int64_t p = 0; p < positions; ++p) {
    const auto angle = [&](int64_t i) {
      return static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    };
    for (int64_t i = 0; i < dim / 2; ++i) table.push_back(std::cos(angle(i)));
    for (int64_t i = 0; i < dim / 2; ++i) table.push_back(std::sin(angle(i)));
  }
  return table;
}

Values reference_rotary(const RotaryCase& c, const Values& x, const std::vector<int32_t>& positions,
                        const Values& table) {
  Values y = x;
  const auto half = static_cast<size_t>(c.dim / 2);
  for (size_t n = 0; n < positions.size(); ++n) {
    for (int64_t h = 0; h < c.rotated; ++h) {
      for (size_t i = 0; i < half; ++i) {
        const double cos = table[static_cast<size_t>(positions[n]) * 2 * half + i];
        const double sin = table[static_cast<size_t>(positions[n]) * 2 * half + half + i];
        const size_t at = n * static_cast<size_t>(c.columns) + static_cast<size_t>(h * c.dim) + i;
        y[at] = x[at] * cos - x[at + half] * sin;
        y[at + half] = x[at + half] * cos + x[at] * sin;
      }
    }
  }
  return y;
}

class RotaryTest : public OpTest {};

TEST_P(RotaryTest, MatchesReferenceAndTurnsBack) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const RotaryCase& c : kCases) {
      Tensor qkv = normal(dtype, {c.rows, c.columns}, "qkv");
      const std::vector<int32_t> ids = uniform_ids(c.rows, 50, "positions");
      const Tensor positions = make_ids(stream(), ids);
      const Tensor table = tensor(DType::f32, {50, c.dim}, make_table(50, c.dim));
      const Values before = read(qkv);
      ops::rotary(stream(), qkv, positions, table, c.rotated, c.dim, /*inverse=*/false);
      const std::string what = dtype_name(dtype) + " " + qkv.shape().str();
      const double limit = tolerance(dtype, OpKind::elementwise);
      expect_close(read(qkv), reference_rotary(c, before, ids, read(table)), limit, what);
      ops::rotary(stream(), qkv, positions, table, c.rotated, c.dim, /*inverse=*/true);
      expect_close(read(qkv), before, 2 * limit, "back " + what);
    }
  }
}

// The inverse rotation is the backward pass: its matrix is the transpose.
TEST_P(RotaryTest, InverseIsTheGradient) {
  const RotaryCase c{3, 20, 2, 6};
  const std::vector<int32_t> ids = uniform_ids(3, 50, "positions");
  const Tensor table = tensor(DType::f32, {50, c.dim}, make_table(50, c.dim));
  Tensor dqkv = normal(DType::f32, {3, 20}, "dqkv");
  const Values d = read(dqkv);
  const auto loss = [&](const Values& at) { return dot(d, reference_rotary(c, at, ids, read(table))); };
  const Values want = gradient_of(loss, normal_values(60, "qkv"));
  ops::rotary(stream(), dqkv, make_ids(stream(), ids), table, c.rotated, c.dim, /*inverse=*/true);
  expect_close(read(dqkv), want, tolerance(DType::f32, OpKind::elementwise), "dqkv");
}

TEST_P(RotaryTest, SameBitsOnAnyPool) {
  expect_same_bits_on_any_pool([](Stream& s) {
    Tensor qkv = make_tensor(s, DType::f32, {999, 192}, normal_values(999 * 192, "qkv"));
    const Tensor table = make_tensor(s, DType::f32, {50, 64}, make_table(50, 64));
    ops::rotary(s, qkv, make_ids(s, uniform_ids(999, 50, "positions")), table, 2, 64, /*inverse=*/false);
    return std::vector<Tensor>{qkv};
  });
}

TEST_P(RotaryTest, RefusesAPositionOutsideTheTable) {
  if (GetParam().type != DeviceType::cpu) return;  // a kernel on a GPU does not look
  Tensor qkv = normal(DType::f32, {1, 6}, "qkv");
  const Tensor table = tensor(DType::f32, {5, 2}, make_table(5, 2));
  EXPECT_THROW(ops::rotary(stream(), qkv, make_ids(stream(), {5}), table, 2, 2, false), BugError);
  EXPECT_THROW(ops::rotary(stream(), qkv, make_ids(stream(), {0}), table, 4, 2, false), BugError);
}

TRIREME_OP_DEVICES(RotaryTest);

}  // namespace
}  // namespace trireme::testing
