#include <cmath>
#include <limits>

#include "core/ops/elementwise.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

const std::vector<int64_t> kSizes = {0, 1, 3, 17, 63, 65, 130, 70001};

class ElementwiseTest : public OpTest {};

TEST_P(ElementwiseTest, FillWritesEveryDtype) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8}) {
    for (const int64_t n : kSizes) {
      Tensor x = unset(dtype, {n});
      ops::fill(stream(), x, 3.0);
      EXPECT_EQ(read(x), Values(static_cast<size_t>(n), 3.0)) << dtype_name(dtype) << " " << n;
    }
  }
}

TEST_P(ElementwiseTest, CopyMovesBits) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i64, DType::u8}) {
    for (const int64_t n : kSizes) {
      const Tensor x = tensor(dtype, {n}, plus(Values(static_cast<size_t>(n), 100), 10, normal_values(n, "x")));
      Tensor y = unset(dtype, {n});
      ops::copy(stream(), x, y);
      EXPECT_EQ(read(y), read(x));
    }
  }
}

TEST_P(ElementwiseTest, CastRoundsToNearestEven) {
  const float inf = std::numeric_limits<float>::infinity();
  // 1 + 2⁻⁸ lies between two bf16 and goes to the even one, 1; 1 + 3·2⁻⁸ goes to 1 + 2·2⁻⁷.
  const Values x = {1.0, 1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1.01p-8, -1 - 0x1p-8, 3.4e38, inf, -inf, 1e-40, 0.0};
  const Tensor wide = tensor(DType::f32, {10}, x);
  Tensor narrow = unset(DType::bf16, {10});
  ops::cast(stream(), wide, narrow);
  const Values got = read(narrow);
  const Values want = {1.0, 1.0, 1 + 0x2p-7, 1 + 0x1p-7, -1.0, inf, inf, -inf, got[8], 0.0};
  EXPECT_EQ(got, want);
  EXPECT_NEAR(got[8], 1e-40, 0x1p-134);  // half a unit of the subnormals

  Tensor back = unset(DType::f32, {10});
  ops::cast(stream(), narrow, back);
  EXPECT_EQ(read(back), got);

  Tensor nan = unset(DType::f32, {65});  // NaN with all bits set: rounding up must not make it −0
  Tensor nan_narrow = tensor(DType::bf16, {65}, Values(65, 1.0));
  ops::cast(stream(), nan, nan_narrow);
  for (const double v : read(nan_narrow)) EXPECT_TRUE(std::isnan(v));
}

TEST_P(ElementwiseTest, CastOfManySizes) {
  for (const int64_t n : kSizes) {
    const Tensor x = normal(DType::f32, {n}, "x", 100);
    Tensor narrow = unset(DType::bf16, {n});
    ops::cast(stream(), x, narrow);
    const Values want = read(x);
    const Values got = read(narrow);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], static_cast<double>(static_cast<float>(bf16(static_cast<float>(want[i])))));
      ASSERT_NEAR(got[i], want[i], 0x1p-8 * std::abs(want[i]));
    }
  }
}

TEST_P(ElementwiseTest, AddScaleAccumulate) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t n : kSizes) {
      const Tensor a = normal(dtype, {n}, "a");
      Tensor b = normal(dtype, {n}, "b");
      Tensor y = unset(dtype, {n});
      ops::add(stream(), a, b, y);
      expect_close(read(y), plus(read(a), 1, read(b)), tolerance(dtype, OpKind::elementwise), "a + b");
      ops::add(stream(), a, b, b);
      EXPECT_TRUE(read_bytes(stream(), b) == read_bytes(stream(), y)) << "in place";
    }
  }
  for (const int64_t n : kSizes) {
    const Tensor x = normal(DType::f32, {n}, "x");
    Tensor y = unset(DType::f32, {n});
    ops::accumulate(stream(), x, y, /*accumulate=*/false);
    EXPECT_EQ(read(y), read(x));
    ops::accumulate(stream(), x, y, /*accumulate=*/true);
    expect_close(read(y), plus(read(x), 1, read(x)), 0, "x + x");
    ops::scale(stream(), y, 0.25f);
    expect_close(read(y), plus(read(x), -0.5, read(x)), 0, "(x + x) / 4");
  }
}

// The terms keep their digits until the sum is rounded: 256 + 1.00003 lies above the middle of 256 and 258.
TEST_P(ElementwiseTest, AccumulatesIntoBf16) {
  for (const int64_t n : kSizes) {
    const Tensor x = normal(DType::f32, {n}, "x");
    const Tensor rounded = tensor(DType::bf16, {n}, read(x));
    Tensor y = unset(DType::bf16, {n});
    ops::accumulate(stream(), x, y, /*accumulate=*/false);
    EXPECT_EQ(read(y), read(rounded));
    ops::accumulate(stream(), x, y, /*accumulate=*/true);
    expect_close(read(y), plus(read(rounded), 1, read(x)), tolerance(DType::bf16, OpKind::elementwise), "x + x");
  }
  Tensor y = tensor(DType::bf16, {2}, {256, 256});
  ops::accumulate(stream(), tensor(DType::f32, {2}, {1.0000305, 0.999}), y, /*accumulate=*/true);
  EXPECT_EQ(read(y), (Values{258, 256}));
}

TEST_P(ElementwiseTest, SumsAreInFp64) {
  for (const int64_t n : kSizes) {
    const Tensor x = normal(DType::f32, {n}, "x");
    long double exact_sum = 0;
    long double exact_squares = 0;
    for (const double v : read(x)) {
      exact_sum += static_cast<long double>(v);
      exact_squares += static_cast<long double>(v * v);
    }
    const double sum = static_cast<double>(exact_sum);
    const double squares = static_cast<double>(exact_squares);
    Tensor out = unset(DType::f64, {1});
    const double scale = std::sqrt(static_cast<double>(n)) + 1;
    ops::sum(stream(), x, out, /*accumulate=*/false);
    EXPECT_NEAR(read(out)[0], sum, 1e-12 * scale) << n;
    ops::sum(stream(), x, out, /*accumulate=*/true);
    EXPECT_NEAR(read(out)[0], 2 * sum, 2e-12 * scale) << n;
    ops::sum_squares(stream(), x, out, /*accumulate=*/false);
    EXPECT_NEAR(read(out)[0], squares, 1e-13 * (squares + 1)) << n;
    ops::sum_squares(stream(), x, out, /*accumulate=*/true);
    EXPECT_NEAR(read(out)[0], 2 * squares, 2e-13 * (squares + 1)) << n;
  }
}

TEST_P(ElementwiseTest, SquaresOfBf16AreExact) {
  for (const int64_t n : kSizes) {
    const Tensor x = normal(DType::bf16, {n}, "x");
    long double exact = 0;
    for (const double v : read(x)) exact += static_cast<long double>(v * v);
    const double squares = static_cast<double>(exact);
    Tensor out = unset(DType::f64, {1});
    ops::sum_squares(stream(), x, out, /*accumulate=*/false);
    EXPECT_NEAR(read(out)[0], squares, 1e-13 * (squares + 1)) << n;
    ops::sum_squares(stream(), x, out, /*accumulate=*/true);
    EXPECT_NEAR(read(out)[0], 2 * squares, 2e-13 * (squares + 1)) << n;
  }
}

TEST_P(ElementwiseTest, SumSeesWhatIsNotFinite) {
  Values x(70001, 1.0);
  x[70000] = std::numeric_limits<double>::quiet_NaN();
  Tensor out = unset(DType::f64, {1});
  ops::sum_squares(stream(), tensor(DType::f32, {70001}, x), out, /*accumulate=*/false);
  EXPECT_TRUE(std::isnan(read(out)[0]));
}

TEST_P(ElementwiseTest, SameBitsOnAnyPool) {
  expect_same_bits_on_any_pool([](Stream& s) {
    const int64_t n = 200003;
    const Tensor x = make_tensor(s, DType::f32, {n}, normal_values(n, "x"));
    Tensor sum = make_unset(s, DType::f64, {1});
    Tensor squares = make_unset(s, DType::f64, {1});
    Tensor narrow = make_unset(s, DType::bf16, {n});
    ops::sum(s, x, sum, /*accumulate=*/false);
    ops::sum_squares(s, x, squares, /*accumulate=*/false);
    ops::cast(s, x, narrow);
    return std::vector<Tensor>{sum, squares, narrow};
  });
}

TEST_P(ElementwiseTest, RefusesOtherSizesAndTypes) {
  Tensor y = unset(DType::f32, {5});
  EXPECT_THROW(ops::copy(stream(), unset(DType::f32, {4}), y), BugError);
  EXPECT_THROW(ops::copy(stream(), unset(DType::bf16, {5}), y), BugError);
  EXPECT_THROW(ops::cast(stream(), unset(DType::i32, {5}), y), BugError);
  EXPECT_THROW(ops::scale(stream(), y = unset(DType::bf16, {5}), 2.0f), BugError);
}

TRIREME_OP_DEVICES(ElementwiseTest);

}  // namespace
}  // namespace trireme::testing
