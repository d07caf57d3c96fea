// Cross-entropy over a vocabulary in parts: what every rank has must be what the whole has.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/ops/cross_entropy.h"
#include "core/ops/part_stats.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kScale = 0.125;

// A vocabulary in parts of `size` entries, the last as many as are left, in rows of `width` columns.
struct Cut {
  int64_t rows, vocabulary, size, width;
  int num_parts;

  ops::VocabularyPart part(int rank) const {
    const int64_t first = std::min(rank * size, vocabulary);
    return {first, std::min(size, vocabulary - first)};
  }
  std::string str() const { return Shape{rows, vocabulary, size, width}.str() + " in " + std::to_string(num_parts); }
};

// 5 over 4 parts: 2, 2, 1, 0. 67 in parts whose last is short; without padding at all; one part only; no rows. Widths
// that vectors divide, and that they don't.
const std::vector<Cut> kCuts = {{3, 5, 2, 2, 4},    {3, 5, 2, 8, 4},          {7, 67, 24, 24, 3},
                                {7, 67, 34, 40, 2}, {7, 67, 17, 17, 4},       {7, 67, 67, 72, 1},
                                {0, 67, 24, 24, 3}, {5, 3000, 1500, 1500, 2}, {3, 5003, 2504, 2504, 2}};

struct Reference {
  Values losses;
  Values gradient;  // [rows, vocabulary]
};

Reference reference(const Values& logits, const std::vector<int32_t>& labels, int64_t vocabulary) {
  Reference out;
  for (size_t n = 0; n < labels.size(); ++n) {
    const double* row = logits.data() + n * static_cast<size_t>(vocabulary);
    const bool ignored = labels[n] == ops::kIgnoredLabel;
    const double max = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(row[i] - max);
    out.losses.push_back(ignored ? 0 : max + std::log(sum) - row[labels[n]]);
    for (int64_t i = 0; i < vocabulary; ++i) {
      const double p = std::exp(row[i] - max) / sum;
      out.gradient.push_back(ignored ? 0 : kScale * (p - (i == labels[n] ? 1 : 0)));
    }
  }
  return out;
}

// Random labels, every third ignored.
std::vector<int32_t> make_labels(int64_t rows, int64_t vocabulary) {
  std::vector<int32_t> labels = uniform_ids(rows, vocabulary, "labels");
  for (size_t n = 2; n < labels.size(); n += 3) labels[n] = ops::kIgnoredLabel;
  return labels;
}

class CrossEntropyPartsTest : public OpTest {
 protected:
  // A part's columns of [rows, vocabulary], with `padding` behind them.
  static Values columns_of(const Values& whole, const Cut& cut, int rank, double padding) {
    const ops::VocabularyPart part = cut.part(rank);
    Values out;
    for (int64_t n = 0; n < cut.rows; ++n) {
      const auto row = whole.begin() + n * cut.vocabulary + part.first;
      out.insert(out.end(), row, row + part.size);
      out.insert(out.end(), static_cast<size_t>(cut.width - part.size), padding);
    }
    return out;
  }
  Tensor logits_of(DType dtype, const Values& whole, const Cut& cut, int rank) {
    return tensor(dtype, {cut.rows, cut.width}, columns_of(whole, cut, rank, kNan));
  }
  Tensor scale_tensor() { return tensor(DType::f32, {1}, {kScale}); }

  Tensor stats_of_all(DType dtype, const Values& whole, const Cut& cut, const Tensor& labels) {
    Values all;
    for (int rank = 0; rank < cut.num_parts; ++rank) {
      Tensor stats = unset(DType::f32, {cut.rows, ops::kPartStatsColumns});
      ops::cross_entropy_stats(stream(), logits_of(dtype, whole, cut, rank), labels, cut.part(rank), stats);
      const Values mine = read(stats);
      all.insert(all.end(), mine.begin(), mine.end());
    }
    return tensor(DType::f32, {cut.num_parts, cut.rows, ops::kPartStatsColumns}, all);
  }
  void check(DType dtype, DType gradient_dtype, const Cut& cut);
};

void CrossEntropyPartsTest::check(DType dtype, DType gradient_dtype, const Cut& cut) {
  const Values x = read(normal(dtype, {cut.rows, cut.vocabulary}, "logits", 4.0));
  const std::vector<int32_t> label_values = make_labels(cut.rows, cut.vocabulary);
  const Tensor labels = make_ids(stream(), label_values);
  const Reference want = reference(x, label_values, cut.vocabulary);
  const Tensor stats = stats_of_all(dtype, x, cut, labels);
  std::vector<std::byte> first_losses;
  for (int rank = 0; rank < cut.num_parts; ++rank) {
    const std::string what = cut.str() + " rank " + std::to_string(rank);
    Tensor logits = logits_of(dtype, x, cut, rank);
    Tensor losses = unset(DType::f32, {cut.rows});
    Tensor dlogits = dtype == gradient_dtype ? logits : unset(gradient_dtype, logits.shape());
    ops::cross_entropy(stream(), logits, labels, cut.part(rank), stats, scale_tensor(), losses, dlogits);
    expect_close(read(losses), want.losses, tolerance(DType::f32, OpKind::reduction), what);
    const std::vector<std::byte> bytes = read_bytes(stream(), losses);
    if (rank == 0) first_losses = bytes;
    EXPECT_EQ(bytes, first_losses) << what;

    const Values gradient = read(dlogits);
    const Values want_gradient = columns_of(want.gradient, cut, rank, 0);
    expect_close(gradient, want_gradient, tolerance(gradient_dtype, OpKind::reduction), "gradient, " + what);
    for (size_t i = 0; i < gradient.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / cut.width;
      const bool zero = static_cast<int64_t>(i) % cut.width >= cut.part(rank).size ||
                        label_values[static_cast<size_t>(row)] == ops::kIgnoredLabel;
      EXPECT_TRUE(!zero || gradient[i] == 0) << what << " element " << i;
    }

    Tensor none;
    Tensor evaluated = unset(DType::f32, {cut.rows});
    ops::cross_entropy(stream(), logits, labels, cut.part(rank), stats, {}, evaluated, none);
    EXPECT_EQ(read_bytes(stream(), evaluated), first_losses) << what;
  }
}

TEST_P(CrossEntropyPartsTest, MatchTheWhole) {
  for (const Cut& cut : kCuts) {
    check(DType::f32, DType::f32, cut);  // in place
    check(DType::f32, DType::bf16, cut);
  }
}

TEST_P(CrossEntropyPartsTest, MatchTheWholeInBf16) {
  for (const Cut& cut : kCuts) {
    check(DType::bf16, DType::bf16, cut);  // in place
    check(DType::bf16, DType::f32, cut);
  }
}

// Known answers: the maximum, Σ e^(x − maximum), the label's logit.
TEST_P(CrossEntropyPartsTest, Stats) {
  const Tensor logits =
      tensor(DType::f32, {4, 4}, {1, 3, 2, kNan, 5, 5, 5, kNan, 0, 1, 2, kNan, -kInfinity, 7, 7, kNan});
  const Tensor labels = make_ids(stream(), {11, 9, ops::kIgnoredLabel, 13});  // one in the part, one before, one behind
  Tensor stats = unset(DType::f32, {4, ops::kPartStatsColumns});
  ops::cross_entropy_stats(stream(), logits, labels, {10, 3}, stats);
  const Values got = read(stats);
  const Values want = {3,         1 + std::exp(-1) + std::exp(-2), 3, 5, 3, -kInfinity, -kInfinity, 0, -kInfinity, 7, 2,
                       -kInfinity};
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i])) {
      EXPECT_EQ(got[i], want[i]) << i;
    } else {
      EXPECT_NEAR(got[i], want[i], 1e-6) << i;
    }
  }
}

TEST_P(CrossEntropyPartsTest, StatsOfAPartWithoutEntries) {
  const Tensor labels = make_ids(stream(), {1, ops::kIgnoredLabel});
  for (const int64_t width : {0, 8}) {
    Tensor stats = unset(DType::f32, {2, ops::kPartStatsColumns});
    ops::cross_entropy_stats(stream(), unset(DType::f32, {2, width}), labels, {5, 0}, stats);
    EXPECT_EQ(read(stats), (Values{-kInfinity, 0, -kInfinity, -kInfinity, 0, -kInfinity})) << width;
  }
}

// A part that is masked altogether, a part far above the others.
TEST_P(CrossEntropyPartsTest, ExtremeLogits) {
  const Cut cut{3, 12, 4, 4, 3};
  Values x(36);
  for (size_t i = 0; i < 12; ++i) {
    x[i] = i < 4 ? -kInfinity : static_cast<double>(i);
    x[12 + i] = i == 8 ? 1e30 : -1e30;
    x[24 + i] = static_cast<double>(i) * 80;
  }
  const std::vector<int32_t> label_values = {4, 8, 0};
  const Tensor labels = make_ids(stream(), label_values);
  const Reference want = reference(x, label_values, 12);
  const Tensor stats = stats_of_all(DType::f32, x, cut, labels);
  for (int rank = 0; rank < cut.num_parts; ++rank) {
    Tensor losses = unset(DType::f32, {3});
    Tensor dlogits = unset(DType::f32, {3, 4});
    ops::cross_entropy(stream(), logits_of(DType::f32, x, cut, rank), labels, cut.part(rank), stats, scale_tensor(),
                       losses, dlogits);
    expect_close(read(losses), want.losses, tolerance(DType::f32, OpKind::reduction), "losses");
    expect_close(read(dlogits), columns_of(want.gradient, cut, rank, 0), tolerance(DType::f32, OpKind::reduction),
                 "gradient");
  }
}

// Wherever it is: beside the label, in another part, the label's own logit, in a part that is else masked.
TEST_P(CrossEntropyPartsTest, NanReachesTheLossOfEveryRank) {
  const Cut cut{1, 9, 3, 3, 3};
  for (const bool masked : {false, true}) {
    for (size_t at = 0; at < 9; ++at) {
      Values x(9, 1.0);
      if (masked) std::fill_n(x.begin() + static_cast<int64_t>(at) / 3 * 3, 3, -kInfinity);
      x[at] = kNan;
      const Tensor labels = make_ids(stream(), {4});
      const Tensor stats = stats_of_all(DType::f32, x, cut, labels);
      for (int rank = 0; rank < cut.num_parts; ++rank) {
        Tensor losses = unset(DType::f32, {1});
        Tensor dlogits = unset(DType::f32, {1, 3});
        ops::cross_entropy(stream(), logits_of(DType::f32, x, cut, rank), labels, cut.part(rank), stats, scale_tensor(),
                           losses, dlogits);
        EXPECT_TRUE(std::isnan(read(losses)[0])) << "NaN at " << at << ", rank " << rank;
        EXPECT_TRUE(std::isnan(read(dlogits)[0])) << "NaN at " << at << ", rank " << rank;
      }
    }
  }
}

TEST_P(CrossEntropyPartsTest, SameBitsOnAnyPool) {
  const Cut cut{101, 1500, 777, 777, 2};
  const Values x = normal_values(101 * 1500, "logits");
  expect_same_bits_on_any_pool([&](Stream& s) {
    const Tensor labels = make_ids(s, make_labels(101, 1500));
    const Tensor logits = make_tensor(s, DType::f32, {101, 777}, columns_of(x, cut, 0, kNan));
    Tensor stats = make_unset(s, DType::f32, {101, ops::kPartStatsColumns});
    ops::cross_entropy_stats(s, logits, labels, cut.part(0), stats);
    const Values both = normal_values(2 * 101 * 3, "stats");
    Values positive(both.size());
    for (size_t i = 0; i < both.size(); ++i) positive[i] = std::abs(both[i]) + 8;
    Tensor losses = make_unset(s, DType::f32, {101});
    Tensor dlogits = make_unset(s, DType::bf16, {101, 777});
    ops::cross_entropy(s, logits, labels, cut.part(0), make_tensor(s, DType::f32, {2, 101, 3}, positive),
                       make_tensor(s, DType::f32, {1}, {kScale}), losses, dlogits);
    return std::vector<Tensor>{stats, losses, dlogits};
  });
}

TEST_P(CrossEntropyPartsTest, RefusesPartsThatDoNotFit) {
  const Tensor logits = normal(DType::f32, {2, 4}, "logits");
  const Tensor labels = make_ids(stream(), {0, 1});
  Tensor losses = unset(DType::f32, {2});
  Tensor none;
  Tensor stats = unset(DType::f32, {2, 3});
  EXPECT_THROW(ops::cross_entropy_stats(stream(), logits, labels, {0, 5}, stats), BugError);
  EXPECT_THROW(ops::cross_entropy(stream(), logits, labels, {4, 4}, {}, {}, losses, none), BugError) << "no stats";
  EXPECT_THROW(ops::cross_entropy(stream(), logits, labels, {4, 4}, stats, {}, losses, none), BugError) << "two dims";
}

TRIREME_OP_DEVICES(CrossEntropyPartsTest);

}  // namespace
}  // namespace trireme::testing
