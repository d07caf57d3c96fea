#include "core/ops/embedding.h"

#include <algorithm>
#include <limits>

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
  ops::embedding_forward(stream(), make_ids(stream(), ids), table, {0, c.vocabulary}, Tensor(), Tensor(), y);
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
  ops::embedding_forward(stream(), make_ids(stream(), ids), table, {0, c.vocabulary}, make_ids(stream(), places),
                         position_table, y);
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
    ops::embedding_backward(stream(), make_ids(stream(), ids), {0, c.vocabulary}, dy, dtable, /*accumulate=*/false);
    expect_close(read(dtable), want, limit, c.str());
    Tensor before = normal(table_dtype, {c.vocabulary, c.columns}, "before");
    const Values want_sum = plus(read(before), 1, want);
    ops::embedding_backward(stream(), make_ids(stream(), ids), {0, c.vocabulary}, dy, before, /*accumulate=*/true);
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
  ops::embedding_backward(stream(), ids, {0, 2}, tensor(DType::bf16, {4, 1}, {0.75, 0.75, 0.75, 0.75}), dtable, true);
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
    ops::embedding_backward(stream(), make_ids(stream(), ids), {0, kMost}, dy, dtable, /*accumulate=*/false);
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
      ops::embedding_backward(s, ids, {0, 100}, dy, dtable, /*accumulate=*/false);
      return std::vector<Tensor>{dtable};
    });
  }
}

struct PartCase {
  int64_t tokens, vocabulary, rows, columns;  // rows of each part, padding included
  int num_parts;
  std::string str() const {
    return Shape{tokens, vocabulary, rows, columns}.str() + " in " + std::to_string(num_parts);
  }
};

// 5 over 4 parts: the last is empty, and of the third one row is missing. 67: the last holds 19 of 24.
const std::vector<PartCase> kPartCases = {
    {0, 5, 8, 3, 2}, {40, 5, 2, 7, 4}, {300, 67, 24, 24, 3}, {300, 67, 24, 17, 3}, {2000, 300, 160, 8, 2}};

// The part of rank r: `rows` to a rank, the last as many as are left.
ops::VocabularyPart part_of(const PartCase& c, int rank) {
  const int64_t first = std::min(rank * c.rows, c.vocabulary);
  return {first, std::min(c.rows, c.vocabulary - first)};
}

// Parts of a table, in buffers of equal size: a token's row comes from one, the others give exact zeros. What lies behind
// a part holds NaN, and is not read.
TEST_P(EmbeddingTest, PartsOfATableAddUpToTheWhole) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const PartCase& c : kPartCases) {
      const Tensor ids = make_ids(stream(), uniform_ids(c.tokens, c.vocabulary, "ids"));
      const Tensor places = make_ids(stream(), uniform_ids(c.tokens, 11, "positions"));
      const Tensor position_table = normal(dtype, {11, c.columns}, "position_table");
      const Tensor table = normal(dtype, {c.vocabulary, c.columns}, "table");
      const Values rows = read(table);
      Tensor whole = unset(dtype, {c.tokens, c.columns});
      ops::embedding_forward(stream(), ids, table, {0, c.vocabulary}, {}, {}, whole);
      Values sum(static_cast<size_t>(whole.numel()));
      for (int rank = 0; rank < c.num_parts; ++rank) {
        const ops::VocabularyPart part = part_of(c, rank);
        Values mine(static_cast<size_t>(c.rows * c.columns), std::numeric_limits<double>::quiet_NaN());
        std::copy_n(rows.begin() + part.first * c.columns, part.size * c.columns, mine.begin());
        const Tensor table_part = tensor(dtype, {c.rows, c.columns}, mine);
        Tensor y = unset(dtype, whole.shape());
        ops::embedding_forward(stream(), ids, table_part, part, {}, {}, y);
        const Values alone = read(y);
        sum = plus(sum, 1, alone);

        // With positions: theirs is the row where the token is another part's.
        ops::embedding_forward(stream(), ids, table_part, part, places, position_table, y);
        const Values position_rows = read(position_table);
        const Values place = read(places);
        Values want = alone;
        for (size_t i = 0; i < want.size(); ++i) {
          const auto columns = static_cast<size_t>(c.columns);
          want[i] += position_rows[static_cast<size_t>(place[i / columns]) * columns + i % columns];
        }
        expect_close(read(y), want, tolerance(dtype, OpKind::elementwise), "positions, " + c.str());
      }
      EXPECT_EQ(sum, read(whole)) << c.str();
    }
  }
}

// A part's gradient is, bit for bit, those rows of the whole table's, and zeros behind them.
TEST_P(EmbeddingTest, GradientOfAPartIsItsRowsOfTheWhole) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const PartCase& c : kPartCases) {
      const Tensor ids = make_ids(stream(), uniform_ids(c.tokens, c.vocabulary, "ids"));
      const Tensor dy = normal(DType::f32, {c.tokens, c.columns}, "dy");
      Tensor whole = unset(dtype, {c.vocabulary, c.columns});
      ops::embedding_backward(stream(), ids, {0, c.vocabulary}, dy, whole, /*accumulate=*/false);
      const Values want = read(whole);
      for (int rank = 0; rank < c.num_parts; ++rank) {
        const ops::VocabularyPart part = part_of(c, rank);
        Values mine(static_cast<size_t>(c.rows * c.columns));
        std::copy_n(want.begin() + part.first * c.columns, part.size * c.columns, mine.begin());
        Tensor dtable = unset(dtype, {c.rows, c.columns});
        ops::embedding_backward(stream(), ids, part, dy, dtable, /*accumulate=*/false);
        EXPECT_EQ(read(dtable), mine) << c.str() << " rank " << rank;
        // Added to zeros, of which those behind the part stay.
        Tensor again = tensor(dtype, dtable.shape(), Values(mine.size()));
        ops::embedding_backward(stream(), ids, part, dy, again, /*accumulate=*/true);
        EXPECT_EQ(read(again), mine) << c.str() << " rank " << rank;
      }
    }
  }
}

TEST_P(EmbeddingTest, RefusesAnIdOutsideTheTable) {
  if (GetParam().type != DeviceType::cpu) return;  // a kernel on a GPU does not look
  const Tensor table = normal(DType::f32, {5, 2}, "table");
  const Tensor ids = make_ids(stream(), {-1});
  Tensor y = unset(DType::f32, {1, 2});
  Tensor dtable = unset(DType::f32, {5, 2});
  EXPECT_THROW(ops::embedding_forward(stream(), ids, table, {0, 5}, {}, {}, y), BugError);
  EXPECT_THROW(ops::embedding_backward(stream(), ids, {0, 5}, y, dtable, false), BugError);
  const Tensor token = make_ids(stream(), {1});
  for (const int32_t place : {-1, 5}) {
    EXPECT_THROW(ops::embedding_forward(stream(), token, table, {0, 5}, make_ids(stream(), {place}), table, y),
                 BugError);
  }
}

TEST_P(EmbeddingTest, RefusesAPartLargerThanTheTable) {
  const Tensor table = normal(DType::f32, {5, 2}, "table");
  const Tensor ids = make_ids(stream(), {0});
  Tensor y = unset(DType::f32, {1, 2});
  Tensor dtable = unset(DType::f32, {5, 2});
  for (const ops::VocabularyPart part : {ops::VocabularyPart{0, 6}, {-1, 5}, {3, -1}}) {
    EXPECT_THROW(ops::embedding_forward(stream(), ids, table, part, {}, {}, y), BugError);
    EXPECT_THROW(ops::embedding_backward(stream(), ids, part, y, dtable, false), BugError);
  }
}

TRIREME_OP_DEVICES(EmbeddingTest);

}  // namespace
}  // namespace trireme::testing
