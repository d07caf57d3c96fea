#include "core/ops/expert_rows.h"

#include <cmath>
#include <numeric>

#include "core/ops/elementwise.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

const std::vector<DType> kFloats = {DType::f32, DType::bf16};
const std::vector<int64_t> kColumns = {1, 3, 8, 33, 64, 520, 1048};

struct Sorted {
  Values counts;
  Values order;
  Values position;
};

Sorted reference_sort(const std::vector<int32_t>& experts, int64_t num_experts) {
  Sorted sorted{Values(static_cast<size_t>(num_experts)), {}, Values(experts.size(), -1)};
  for (int32_t e = 0; e < num_experts; ++e) {
    for (size_t i = 0; i < experts.size(); ++i) {
      if (experts[i] != e) continue;
      sorted.position[i] = static_cast<double>(sorted.order.size());
      sorted.order.push_back(static_cast<double>(i));
      sorted.counts[static_cast<size_t>(e)] += 1;
    }
  }
  return sorted;
}

class ExpertRowsTest : public OpTest {
 protected:
  struct SortedTensors {
    Tensor counts;
    Tensor order;
    Tensor position;
  };
  SortedTensors sort(const Tensor& experts, int64_t num_experts) {
    SortedTensors sorted{unset(DType::i64, {num_experts}), unset(DType::i32, {experts.numel()}),
                         unset(DType::i32, experts.shape())};
    ops::fill(stream(), sorted.position, 7);  // -1 is to be written, too
    ops::sort_by_expert(stream(), experts, num_experts, sorted.counts, sorted.order, sorted.position);
    return sorted;
  }
  void expect_sorted(const std::vector<int32_t>& experts, int64_t tokens, int64_t num_experts) {
    const int64_t slots = static_cast<int64_t>(experts.size()) / tokens;
    const Sorted want = reference_sort(experts, num_experts);
    const SortedTensors got = sort(i32({tokens, slots}, experts), num_experts);
    EXPECT_EQ(read(got.counts), want.counts);
    EXPECT_EQ(read(got.position), want.position);
    Values order = read(got.order);
    order.resize(want.order.size());
    EXPECT_EQ(order, want.order) << experts.size() << " pairs of " << num_experts << " experts";
  }
};

TEST_P(ExpertRowsTest, SortKeepsTheOrderOfPairsInsideAnExpert) {
  struct Case {
    int64_t tokens;
    int64_t slots;
    int64_t experts;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{5, 2, 3}, Case{700, 3, 7}, Case{300, 8, 64}, Case{100, 512, 512},
                        Case{75000, 2, 4}, Case{9000, 1, 1}}) {
    // Numbers from −2 to two more than there are experts: some pairs are left out.
    std::vector<int32_t> experts = uniform_ids(c.tokens * c.slots, c.experts + 4, "experts");
    for (int32_t& e : experts) e -= 2;
    expect_sorted(experts, c.tokens, c.experts);
  }
}

TEST_P(ExpertRowsTest, SortOfPairsOfOneExpertOrOfNone) {
  const std::vector<int32_t> last(1400, 4);
  expect_sorted(last, 700, 5);
  const std::vector<int32_t> none(1400, -1);
  expect_sorted(none, 700, 5);
  const std::vector<int32_t> behind(1400, 5);
  expect_sorted(behind, 700, 5);
}

TEST_P(ExpertRowsTest, GatherTakesTheRowsOfPairs) {
  for (const DType dtype : kFloats) {
    for (const int64_t columns : kColumns) {
      constexpr int64_t kTokens = 19;
      for (const int64_t slots : {1, 3, 8}) {
        const Tensor x = normal(dtype, {kTokens, columns}, "x");
        const std::vector<int32_t> order = uniform_ids(50, kTokens * slots, "order");
        Tensor y = unset(dtype, {47, columns});  // fewer than `order` names
        ops::gather_rows(stream(), x, make_ids(stream(), order), slots, y);
        const Values from = read(x);
        Values want;
        for (size_t j = 0; j < 47; ++j) {
          const auto row = from.begin() + order[j] / slots * columns;
          want.insert(want.end(), row, row + columns);
        }
        EXPECT_EQ(read(y), want);
      }
    }
  }
}

TEST_P(ExpertRowsTest, SumAddsTheRowsThatSlotsName) {
  for (const DType dtype : kFloats) {
    for (const int64_t columns : kColumns) {
      for (const int64_t slots : {1, 2, 5, 10}) {
        constexpr int64_t kRows = 23;
        constexpr int64_t kTokens = 17;
        std::vector<int32_t> position = uniform_ids(kTokens * slots, kRows + 4, "position");
        for (int32_t& p : position) p = p >= kRows ? -1 : p;
        for (int64_t s = 0; s < slots; ++s) position[static_cast<size_t>(s)] = -1;  // a token of no rows
        const Tensor rows = normal(dtype, {kRows, columns}, "rows");
        for (const bool accumulate : {false, true}) {
          Tensor y = accumulate ? normal(dtype, {kTokens, columns}, "y") : unset(dtype, {kTokens, columns});
          Values want = accumulate ? read(y) : Values(static_cast<size_t>(y.numel()));
          const Values from = read(rows);
          for (int64_t i = 0; i < y.numel(); ++i) {
            for (int64_t s = 0; s < slots; ++s) {
              const int32_t p = position[static_cast<size_t>(i / columns * slots + s)];
              if (p >= 0) want[static_cast<size_t>(i)] += from[static_cast<size_t>(p * columns + i % columns)];
            }
          }
          ops::sum_rows(stream(), rows, i32({kTokens, slots}, position), y, accumulate);
          expect_close(read(y), want, tolerance(dtype, OpKind::elementwise), "y of " + std::to_string(slots));
        }
      }
    }
  }
}

// 2²⁴ + 1 is 2²⁴ in fp32: the order of a sum shows in its value.
TEST_P(ExpertRowsTest, SumRunsInTheOrderOfSlots) {
  const double big = 16777216;
  for (const int64_t columns : {3, 8}) {
    const auto in_all_columns = [&](const Values& of_rows) {
      Values values;
      for (const double v : of_rows) values.insert(values.end(), static_cast<size_t>(columns), v);
      return values;
    };
    const Tensor rows = tensor(DType::f32, {3, columns}, in_all_columns({big, 1, -big}));
    const Tensor position = i32({3, 3}, {0, 1, 2, 0, 2, 1, 1, 0, 2});
    Tensor y = unset(DType::f32, {3, columns});
    ops::sum_rows(stream(), rows, position, y, /*accumulate=*/false);
    EXPECT_EQ(read(y), in_all_columns({0, 1, 0}));
    y = tensor(DType::f32, {3, columns}, in_all_columns({1, 1, 2}));
    ops::sum_rows(stream(), rows, position, y, /*accumulate=*/true);
    EXPECT_EQ(read(y), in_all_columns({0, 1, 4}));  // 2 + 1 + 2²⁴ is rounded to 2²⁴ + 4
    Tensor long_sums = unset(DType::f32, {2, columns});
    ops::sum_rows(stream(), rows, i32({2, 6}, {1, 1, 1, 0, 2, -1, 1, -1, 1, 0, 2, 1}), long_sums, /*accumulate=*/false);
    EXPECT_EQ(read(long_sums), in_all_columns({4, 3}));
  }
}

TEST_P(ExpertRowsTest, SumUndoesGather) {
  constexpr int64_t kTokens = 300;
  constexpr int64_t kSlots = 4;
  constexpr int64_t kExperts = 9;
  const Tensor x = normal(DType::f32, {kTokens, 24}, "x");
  const SortedTensors sorted =
      sort(i32({kTokens, kSlots}, uniform_ids(kTokens * kSlots, kExperts, "experts")), kExperts);
  Tensor rows = unset(DType::f32, {kTokens * kSlots, 24});
  ops::gather_rows(stream(), x, sorted.order, kSlots, rows);
  Tensor y = unset(DType::f32, x.shape());
  ops::sum_rows(stream(), rows, sorted.position, y, /*accumulate=*/false);
  Values want = read(x);
  for (double& v : want) v *= kSlots;
  expect_close(read(y), want, tolerance(DType::f32, OpKind::elementwise), "four times x");
}

TEST_P(ExpertRowsTest, ShiftedPositions) {
  const Tensor position = i32({2, 3}, {0, 5, -1, 7, -1, 2});
  const Tensor experts = i32({2, 3}, {1, 0, -1, 3, 9, 2});
  const Tensor shifts = i32({2, 4}, {10, 20, 30, 40, 100, 200, 300, 400});
  Tensor out = unset(DType::i32, {2, 6});
  ops::shift_positions(stream(), position, experts, shifts, out);
  EXPECT_EQ(read(out), (Values{20, 200, 15, 105, -1, -1, 47, 407, -1, -1, 32, 302}));
}

TEST_P(ExpertRowsTest, ScaledRowsAndDots) {
  constexpr int64_t kTokens = 11;
  for (const DType dtype : kFloats) {
    for (const int64_t columns : kColumns) {
      const Tensor x = normal(dtype, {kTokens, columns}, "x");
      const Tensor factor = normal(DType::f32, {kTokens}, "factor");
      Tensor y = normal(dtype, {kTokens, columns}, "y");
      const Values a = read(x);
      const Values b = read(y);
      const Values f = read(factor);
      Values want_dots(kTokens);
      Values want = b;
      for (size_t i = 0; i < a.size(); ++i) {
        const size_t row = i / static_cast<size_t>(columns);
        want[i] += f[row] * a[i];
        want_dots[row] += a[i] * b[i];
      }
      Tensor dots = unset(DType::f32, {kTokens});
      ops::row_dots(stream(), x, y, dots);
      expect_close(read(dots), want_dots, tolerance(DType::f32, OpKind::reduction), "dots");
      ops::add_scaled_rows(stream(), x, factor, y);
      expect_close(read(y), want, tolerance(dtype, OpKind::elementwise), "y");
    }
  }
}

Values reference_swiglu(const Values& gate_up, const Values& weights, int64_t columns) {
  Values y;
  for (size_t r = 0; r < weights.size(); ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      const size_t at = r * static_cast<size_t>(2 * columns) + static_cast<size_t>(i);
      const double gate = gate_up[at];
      y.push_back(weights[r] * gate / (1 + std::exp(-gate)) * gate_up[at + static_cast<size_t>(columns)]);
    }
  }
  return y;
}

TEST_P(ExpertRowsTest, WeightedSwigluMatchesReference) {
  for (const DType dtype : kFloats) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 17}, Shape{2, 65}, Shape{3, 64}, Shape{2, 264}}) {
      const int64_t rows = shape[0];
      const int64_t columns = shape[1];
      const Tensor gate_up = normal(dtype, {rows, 2 * columns}, "gate_up", 2.0);
      const Tensor weights = normal(DType::f32, {rows}, "weights");
      const Tensor dy = normal(dtype, shape, "dy");
      Tensor y = unset(dtype, shape);
      Tensor dgate_up = unset(dtype, gate_up.shape());
      Tensor dweights = unset(DType::f32, {rows});
      ops::weighted_swiglu_forward(stream(), gate_up, weights, y);
      ops::weighted_swiglu_backward(stream(), dy, gate_up, weights, dgate_up, dweights);
      const Values x = read(gate_up);
      const Values w = read(weights);
      const Values d = read(dy);
      const double limit = tolerance(dtype, OpKind::elementwise);
      expect_close(read(y), reference_swiglu(x, w, columns), limit, "y " + shape.str());
      const auto by_x = [&](const Values& at) { return dot(d, reference_swiglu(at, w, columns)); };
      expect_close(read(dgate_up), gradient_of(by_x, x), limit, "dgate_up " + shape.str());
      const auto by_w = [&](const Values& at) { return dot(d, reference_swiglu(x, at, columns)); };
      expect_close(read(dweights), gradient_of(by_w, w), tolerance(DType::f32, OpKind::reduction),
                   "dweights " + shape.str());
    }
  }
}

TEST_P(ExpertRowsTest, WeightedSwigluMayWorkInPlace) {
  for (const DType dtype : kFloats) {
    const Tensor dy = normal(dtype, {37, 1301}, "dy");
    const Tensor weights = normal(DType::f32, {37}, "weights");
    Tensor gate_up = normal(dtype, {37, 2602}, "gate_up");
    Tensor dgate_up = unset(dtype, gate_up.shape());
    Tensor dweights = unset(DType::f32, {37});
    Tensor in_place = unset(DType::f32, {37});
    ops::weighted_swiglu_backward(stream(), dy, gate_up, weights, dgate_up, dweights);
    ops::weighted_swiglu_backward(stream(), dy, gate_up, weights, gate_up, in_place);
    EXPECT_TRUE(read_bytes(stream(), gate_up) == read_bytes(stream(), dgate_up));
    EXPECT_TRUE(read_bytes(stream(), in_place) == read_bytes(stream(), dweights));
  }
}

TEST_P(ExpertRowsTest, SameBitsOnAnyPool) {
  constexpr int64_t kTokens = 6000;
  constexpr int64_t kSlots = 3;
  constexpr int64_t kExperts = 11;
  expect_same_bits_on_any_pool([&](Stream& on) {
    const Tensor experts = make_ids(on, uniform_ids(kTokens * kSlots, kExperts, "experts")).view({kTokens, kSlots});
    Tensor counts = make_unset(on, DType::i64, {kExperts});
    Tensor order = make_unset(on, DType::i32, {kTokens * kSlots});
    Tensor position = make_unset(on, DType::i32, {kTokens, kSlots});
    ops::sort_by_expert(on, experts, kExperts, counts, order, position);
    const Tensor x = make_tensor(on, DType::bf16, {kTokens, 16}, normal_values(kTokens * 16, "x"));
    const Tensor weights = make_tensor(on, DType::f32, {kTokens * kSlots}, normal_values(kTokens * kSlots, "w"));
    Tensor rows = make_unset(on, DType::bf16, {kTokens * kSlots, 16});
    Tensor acts = make_unset(on, DType::bf16, {kTokens * kSlots, 8});
    Tensor y = make_unset(on, DType::bf16, {kTokens, 8});
    Tensor dots = make_unset(on, DType::f32, {kTokens});
    ops::gather_rows(on, x, order, kSlots, rows);
    ops::weighted_swiglu_forward(on, rows, weights, acts);
    ops::sum_rows(on, acts, position, y, /*accumulate=*/false);
    ops::row_dots(on, x, x, dots);
    Tensor dweights = make_unset(on, DType::f32, {kTokens * kSlots});
    ops::weighted_swiglu_backward(on, acts, rows, weights, rows, dweights);
    return std::vector<Tensor>{counts, order, position, y, dots, rows, dweights};
  });
}

TEST_P(ExpertRowsTest, WorksOnNoRows) {
  const Tensor none = i32({0, 3}, {});
  Tensor counts = unset(DType::i64, {5});
  Tensor order = i32({0}, {});
  Tensor position = i32({0, 3}, {});
  ops::sort_by_expert(stream(), none, 5, counts, order, position);
  EXPECT_EQ(read(counts), Values(5));
  Tensor shifted = i32({0, 6}, {});
  ops::shift_positions(stream(), position, none, i32({2, 5}, std::vector<int32_t>(10)), shifted);
  for (const DType dtype : kFloats) {
    Tensor empty = unset(dtype, {0, 8});
    const Tensor empty_wide = unset(dtype, {0, 16});
    Tensor dwide = unset(dtype, {0, 16});
    Tensor no_weights = unset(DType::f32, {0});
    ops::gather_rows(stream(), empty, order, 3, empty);
    ops::gather_rows(stream(), normal(dtype, {4, 8}, "x"), order, 3, empty);
    for (const bool accumulate : {false, true}) ops::sum_rows(stream(), empty, position, empty, accumulate);
    ops::add_scaled_rows(stream(), empty, no_weights, empty);
    ops::row_dots(stream(), empty, empty, no_weights);
    ops::weighted_swiglu_forward(stream(), empty_wide, no_weights, empty);
    ops::weighted_swiglu_backward(stream(), empty, empty_wide, no_weights, dwide, no_weights);
    // Tokens whose rows have all gone elsewhere.
    Tensor y = unset(dtype, {4, 8});
    ops::sum_rows(stream(), empty, i32({4, 3}, std::vector<int32_t>(12, -1)), y, /*accumulate=*/false);
    EXPECT_EQ(read(y), Values(32));
    const Tensor before = normal(dtype, {4, 8}, "before");
    ops::copy(stream(), before, y);
    ops::sum_rows(stream(), empty, i32({4, 3}, std::vector<int32_t>(12, -1)), y, /*accumulate=*/true);
    EXPECT_EQ(read(y), read(before));
    // No slots at all.
    ops::sum_rows(stream(), empty, i32({4, 0}, {}), y, /*accumulate=*/false);
    EXPECT_EQ(read(y), Values(32));
  }
}

TEST_P(ExpertRowsTest, RefusesWhatDoesNotFit) {
  const Tensor x = normal(DType::f32, {4, 8}, "x");
  Tensor y = unset(DType::f32, {5, 8});
  const Tensor order = i32({4}, {0, 1, 2, 3});
  EXPECT_THROW(ops::gather_rows(stream(), x, order, 1, y), BugError);  // five rows of four
  Tensor counts = unset(DType::i32, {3});
  Tensor sorted = i32({4}, {0, 0, 0, 0});
  Tensor position = i32({2, 2}, {0, 0, 0, 0});
  EXPECT_THROW(ops::sort_by_expert(stream(), position, 3, counts, sorted, position), BugError);  // counts are i64
}

TRIREME_OP_DEVICES(ExpertRowsTest);

}  // namespace
}  // namespace trireme::testing
