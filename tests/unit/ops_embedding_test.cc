#include "core/ops/embedding.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

struct EmbeddingCase {
  int64_t tokens, vocabulary, columns;
  std::string str() const { return Shape{tokens, vocabulary, columns}.str(); }
};

const std::vector<EmbeddingCase> kCases = {{0, 5, 3},     {1, 1, 1},     {3, 5, 17},   {130, 7, 63},
                                           {65, 300, 65}, {500, 3, 130}, {65, 300, 72}};
const std::vector<EmbeddingCase> kLargeCases = {{700, 3, 264}, {3000, 70000, 8}};

class EmbeddingTest : public OpTest {
 protected:
  void check_forward(DType dtype, const EmbeddingCase& c);
  void check_backward(DType dtype, const EmbeddingCase& c);
};

void EmbeddingTest::check_forward(DType dtype, const EmbeddingCase& c) {
  const std::vector<int32_t> ids = uniform_ids(c.tokens, c.vocabulary, "ids");
  const std::vector<int32_t> places = uniform_ids(c.tokens, 11, "positions");
  const Tensor table = normal(dtype, {c.vocabulary, c.columns}, "table");
  const Tensor position_table = normal(dtype, {11, c.columns}, "position_table");
  Tensor y = unset(dtype, {c.tokens, c.columns});
  ops::embedding_forward(stream(), make_ids(stream(), ids), table, Tensor(), Tensor(), y);
  const Values rows = read(table);
  const Values position_rows = read(position_table);
  Values want;
  Values want_sum;
  for (size_t n = 0; n < ids.size(); ++n) {
    for (int64_t i = 0; i < c.columns; ++i) {
      want.push_back(rows[static_cast<size_t>(ids[n] * c.columns + i)]);
      want_sum.push_back(want.back() + position_rows[static_cast<size_t>(places[n] * c.columns + i)]);
    }
  }
  EXPECT_EQ(read(y), want) << c.str();
  ops::embedding_forward(stream(), make_ids(stream(), ids), table, make_ids(stream(), places), position_table, y);
  expect_close(read(y), want_sum, tolerance(dtype, OpKind::elementwise), c.str());
}

void EmbeddingTest::check_backward(DType dtype, const EmbeddingCase& c) {
  const std::vector<int32_t> ids = uniform_ids(c.tokens, c.vocabulary, "ids");
  const Tensor dy = normal(dtype, {c.tokens, c.columns}, "dy");
  const Values d = read(dy);
  Values want(static_cast<size_t>(c.vocabulary * c.columns));
  for (size_t n = 0; n < ids.size(); ++n) {
    for (int64_t i = 0; i < c.columns; ++i) {
      want[static_cast<size_t>(ids[n] * c.columns + i)] +=
          d[n * static_cast<size_t>(c.columns) + static_cast<size_t>(i)];
    }
  }
  for (const DType table_dtype : {DType::f32, DType::bf16}) {
    const double limit = tolerance(table_dtype, OpKind::reduction);
    Tensor dtable = unset(table_dtype, {c.vocabulary, c.columns});
    ops::embedding_backward(stream(), make_ids(stream(), ids), dy, dtable, /*accumulate=*/false);
    expect_close(read(dtable), want, limit, c.str());
    Tensor before = normal(table_dtype, {c.vocabulary, c.columns}, "before");
    const Values want_sum = plus(read(before), 1, want);
    ops::embedding_backward(stream(), make_ids(stream(), ids), dy, before, /*accumulate=*/true);
    expect_close(read(before), want_sum, limit, "added " + c.str());
  }
}

TEST_P(EmbeddingTest, ForwardPicksRows) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const EmbeddingCase& c : kCases) check_forward(dtype, c);
  }
}

TEST_P(EmbeddingTest, BackwardSumsByRow) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const EmbeddingCase& c : kCases) check_backward(dtype, c);
  }
}

TEST_P(EmbeddingTest, ManyTokens) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const EmbeddingCase& c : kLargeCases) {
      check_forward(dtype, c);
      check_backward(dtype, c);
    }
  }
}

// Each of the four sums alone would vanish beside 256; rows that no id names keep their bits.
TEST_P(EmbeddingTest, TableInBf16IsRoundedOncePerCall) {
  const Tensor ids = make_ids(stream(), {1, 1, 1, 1});
  Tensor dtable = tensor(DType::bf16, {2, 1}, {3, 256});
  ops::embedding_backward(stream(), ids, tensor(DType::bf16, {4, 1}, {0.75, 0.75, 0.75, 0.75}), dtable, true);
  EXPECT_EQ(read(dtable), (Values{3, 260})) << "259 lies half-way, and 260 is even";
}

// Ids that occur once, twice, … 80 times, mixed. Up to 32 rows are added one after the other, in fp32, in the order in
// which they come; how more are added is the device's choice.
TEST_P(EmbeddingTest, RowsAreAddedInTheirOrder) {
  constexpr int64_t kMost = 80;
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < kMost; ++id) ids.insert(ids.end(), static_cast<size_t>(id + 1), id);
  const std::vector<int32_t> swaps = uniform_ids(static_cast<int64_t>(ids.size()), 1 << 30, "swaps");
  for (size_t n = 1; n < ids.size(); ++n) std::swap(ids[n], ids[static_cast<size_t>(swaps[n]) % (n + 1)]);
  const auto count = static_cast<int64_t>(ids.size());
  for (const int64_t columns : {7, 24}) {
    const Tensor dy = normal(DType::f32, {count, columns}, "dy");
    const Values d = read(dy);
    std::vector<float> in_order(static_cast<size_t>(kMost * columns));
    Values exact(in_order.size());
    for (size_t n = 0; n < ids.size(); ++n) {
      for (int64_t i = 0; i < columns; ++i) {
        const auto at = static_cast<size_t>(ids[n] * columns + i);
        const double value = d[n * static_cast<size_t>(columns) + static_cast<size_t>(i)];
        in_order[at] += static_cast<float>(value);
        exact[at] += value;
      }
    }
    Tensor dtable = unset(DType::f32, {kMost, columns});
    ops::embedding_backward(stream(), make_ids(stream(), ids), dy, dtable, /*accumulate=*/false);
    const Values got = read(dtable);
    expect_close(got, exact, tolerance(DType::f32, OpKind::reduction), "dtable");
    for (size_t i = 0; i < static_cast<size_t>(32 * columns); ++i) {
      ASSERT_EQ(static_cast<float>(got[i]), in_order[i]) << "element " << i;
    }
  }
}

TEST_P(EmbeddingTest, SameBitsOnAnyPool) {
  for (const DType table_dtype : {DType::f32, DType::bf16}) {
    expect_same_bits_on_any_pool([&](Stream& s) {
      const Tensor ids = make_ids(s, uniform_ids(3000, 100, "ids"));
      const Tensor dy = make_tensor(s, DType::f32, {3000, 33}, normal_values(3000 * 33, "dy"));
      Tensor dtable = make_unset(s, table_dtype, {100, 33});
      ops::embedding_backward(s, ids, dy, dtable, /*accumulate=*/false);
      return std::vector<Tensor>{dtable};
    });
  }
}

TEST_P(EmbeddingTest, RefusesAnIdOutsideTheTable) {
  if (GetParam().type != DeviceType::cpu) return;  // a kernel on a GPU does not look
  const Tensor table = normal(DType::f32, {5, 2}, "table");
  Tensor y = unset(DType::f32, {1, 2});
  Tensor dtable = unset(DType::f32, {5, 2});
  for (const int32_t id : {-1, 5}) {
    EXPECT_THROW(ops::embedding_forward(stream(), make_ids(stream(), {id}), table, Tensor(), Tensor(), y), BugError);
    EXPECT_THROW(ops::embedding_backward(stream(), make_ids(stream(), {id}), y, dtable, false), BugError);
  }
}

TRIREME_OP_DEVICES(EmbeddingTest);

}  // namespace
}  // namespace trireme::testing
