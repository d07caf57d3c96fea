#include "core/ops/row_bytes.h"

#include "core/ops/elementwise.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

class RowBytesTest : public OpTest {};

// fp32 numbers in rows of bf16 and back, beside what stays as it was.
TEST_P(RowBytesTest, CarriesNumbersOfAnotherType) {
  for (const int64_t columns : {1, 4, 7, 64}) {
    for (const int64_t carried : {1, 8, 16}) {
      constexpr int64_t kRows = 5;
      const Tensor x = normal(DType::bf16, {kRows, columns}, "x");
      const Tensor more = normal(DType::f32, {kRows, carried}, "more");
      Tensor y = unset(DType::bf16, {kRows, columns + 2 * carried});
      ops::copy_row_bytes(stream(), x, 0, y, 0, 2 * columns);
      ops::copy_row_bytes(stream(), more, 0, y, 2 * columns, 4 * carried);
      const std::vector<std::byte> rows = read_bytes(stream(), y);
      const std::vector<std::byte> first = read_bytes(stream(), x);
      const std::vector<std::byte> second = read_bytes(stream(), more);
      for (size_t r = 0; r < kRows; ++r) {
        const size_t a = 2 * static_cast<size_t>(columns);
        const size_t b = 4 * static_cast<size_t>(carried);
        EXPECT_EQ(std::memcmp(&rows[r * (a + b)], &first[r * a], a), 0);
        EXPECT_EQ(std::memcmp(&rows[r * (a + b) + a], &second[r * b], b), 0);
      }
      Tensor back = unset(DType::f32, {kRows, carried});
      ops::copy_row_bytes(stream(), y, 2 * columns, back, 0, 4 * carried);
      EXPECT_EQ(read_bytes(stream(), back), second);
    }
  }
}

TEST_P(RowBytesTest, NoRowsNoBytesAndWhatDoesNotFit) {
  Tensor none = unset(DType::f32, {0, 3});
  ops::copy_row_bytes(stream(), none, 0, none, 4, 8);
  const Tensor x = normal(DType::f32, {2, 3}, "x");
  Tensor y = normal(DType::f32, {2, 3}, "y");
  const Values before = read(y);
  ops::copy_row_bytes(stream(), x, 4, y, 8, 0);
  EXPECT_EQ(read(y), before);
  EXPECT_THROW(ops::copy_row_bytes(stream(), x, 8, y, 0, 8), BugError);  // behind the end of a row
  EXPECT_THROW(ops::copy_row_bytes(stream(), x, 0, y, 1, 4), BugError);
  EXPECT_THROW(ops::copy_row_bytes(stream(), none, 0, y, 0, 4), BugError);
  const Tensor odd = tensor(DType::u8, {2, 5}, Values(10));  // its second row lies at an odd address
  EXPECT_THROW(ops::copy_row_bytes(stream(), odd, 0, y, 0, 4), BugError);
}

TRIREME_OP_DEVICES(RowBytesTest);

}  // namespace
}  // namespace trireme::testing
