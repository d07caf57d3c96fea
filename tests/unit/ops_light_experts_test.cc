#include "core/ops/light_experts.h"

#include <cmath>

#include "core/ops/elementwise.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

// Choices 0 … 3 are real, 4 and 5 compute zero, 6 and 7 copy, 8 to 10 are constant experts.
constexpr ops::LightChoices kChoices{.first = 6, .num_copy = 2, .num_constant = 3};
constexpr int64_t kSlots = 4;

// What the tokens get in fp64 for mixes [n, 2J] as they are: Σ w·E(x), by the definition of each expert.
Values outputs(const std::vector<int32_t>& experts, const Values& weights, const Values& mixes, const Values& x,
               const Values& vectors, int64_t columns) {
  Values y(x.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t row = i / kSlots;
    for (size_t c = 0; c < static_cast<size_t>(columns); ++c) {
      const size_t at = row * static_cast<size_t>(columns) + c;
      if (experts[i] == 6 || experts[i] == 7) y[at] += weights[i] * x[at];
      if (experts[i] < 8 || experts[i] > 10) continue;
      const auto j = static_cast<size_t>(experts[i] - 8);
      const double a = mixes[row * 6 + 2 * j];
      const double b = mixes[row * 6 + 2 * j + 1];
      y[at] += weights[i] * (a * x[at] + b * vectors[j * static_cast<size_t>(columns) + c]);
    }
  }
  return y;
}

Values softmax_of_pairs(const Values& logits) {
  Values out(logits.size());
  for (size_t i = 0; i < logits.size(); i += 2) {
    out[i] = 1 / (1 + std::exp(logits[i + 1] - logits[i]));
    out[i + 1] = 1 - out[i];
  }
  return out;
}

class LightExpertsTest : public OpTest {};

// From −1 (nothing) to 11 (behind the last): numbers of no light expert are among them. The first token has none of them.
std::vector<int32_t> some_experts(int64_t tokens) {
  std::vector<int32_t> experts = uniform_ids(tokens * kSlots, 13, "experts");
  for (int32_t& e : experts) --e;
  for (size_t k = 0; k < kSlots && tokens > 0; ++k) experts[k] = static_cast<int32_t>(k) + 2;
  return experts;
}

TEST_P(LightExpertsTest, OutputsMatchTheDefinition) {
  constexpr int64_t kTokens = 57;
  const std::vector<int32_t> experts = some_experts(kTokens);
  const Tensor chosen = i32({kTokens, kSlots}, experts);
  const Tensor weights = normal(DType::f32, {kTokens, kSlots}, "weights");
  const Tensor mixes = tensor(DType::f32, {kTokens, 6}, softmax_of_pairs(normal_values(kTokens * 6, "logits")));
  Tensor x_factor = unset(DType::f32, {kTokens});
  Tensor vector_factors = unset(DType::f32, {kTokens, 3});
  ops::light_factors(stream(), chosen, weights, mixes, kChoices, x_factor, vector_factors);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t columns : {1, 7, 64, 520, 1032}) {
      const Tensor x = normal(dtype, {kTokens, columns}, "x");
      const Tensor vectors = normal(DType::f32, {3, columns}, "vectors");
      Tensor y = normal(dtype, {kTokens, columns}, "y");
      const Values want =
          plus(read(y), 1, outputs(experts, read(weights), read(mixes), read(x), read(vectors), columns));
      ops::add_light_rows(stream(), x, x_factor, vector_factors, vectors, y);
      expect_close(read(y), want, tolerance(dtype, OpKind::elementwise), "y");
    }
  }
}

// The ops see rows only by their dots, so that few columns will do.
TEST_P(LightExpertsTest, GradientsMatchTheDefinition) {
  constexpr int64_t kTokens = 57;
  constexpr int64_t kColumns = 3;
  const std::vector<int32_t> experts = some_experts(kTokens);
  const Tensor weights = normal(DType::f32, {kTokens, kSlots}, "weights");
  const Values logits = normal_values(kTokens * 6, "logits");
  const Tensor mixes = tensor(DType::f32, {kTokens, 6}, softmax_of_pairs(logits));
  const Values x = normal_values(kTokens * kColumns, "x");
  const Values dy = normal_values(kTokens * kColumns, "dy");
  const Values vectors = normal_values(3 * kColumns, "vectors");
  Values x_dots(kTokens);
  Values vector_dots(kTokens * 3);
  for (size_t i = 0; i < dy.size(); ++i) {
    const size_t row = i / kColumns;
    x_dots[row] += dy[i] * x[i];
    for (size_t j = 0; j < 3; ++j) vector_dots[row * 3 + j] += dy[i] * vectors[j * kColumns + i % kColumns];
  }
  Tensor dweights = unset(DType::f32, {kTokens, kSlots});
  ops::fill(stream(), dweights, 77);  // what other experts' slots had stays
  Tensor dlogits = unset(DType::f32, {kTokens, 6});
  ops::light_gradients(stream(), i32({kTokens, kSlots}, experts), weights, mixes, tensor(DType::f32, {kTokens}, x_dots),
                       tensor(DType::f32, {kTokens, 3}, vector_dots), kChoices, dweights, dlogits);
  const Values weight = read(weights);
  const Values mix = read(mixes);
  const auto by_weights = [&](const Values& at) { return dot(dy, outputs(experts, at, mix, x, vectors, kColumns)); };
  const auto by_logits = [&](const Values& at) {
    return dot(dy, outputs(experts, weight, softmax_of_pairs(at), x, vectors, kColumns));
  };
  Values want_dweights = gradient_of(by_weights, weight);
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 6 || experts[i] > 10) want_dweights[i] = 77;
  }
  expect_close(read(dweights), want_dweights, tolerance(DType::f32, OpKind::reduction), "dweights");
  expect_close(read(dlogits), gradient_of(by_logits, logits), tolerance(DType::f32, OpKind::reduction), "dlogits");
}

TEST_P(LightExpertsTest, CopyExpertsAlone) {
  const ops::LightChoices choices{.first = 2, .num_copy = 1, .num_constant = 0};
  const Tensor chosen = i32({3, 2}, {2, 0, 1, 3, -1, 2});
  const Tensor weights = tensor(DType::f32, {3, 2}, {0.5, 7, 7, 7, 7, 2});
  const Tensor x = tensor(DType::f32, {3, 1}, {10, 20, 30});
  Tensor y = tensor(DType::f32, {3, 1}, {1, 2, 3});
  Tensor x_factor = unset(DType::f32, {3});
  Tensor none;
  ops::light_factors(stream(), chosen, weights, none, choices, x_factor, none);
  EXPECT_EQ(read(x_factor), (Values{0.5, 0, 2}));
  ops::add_light_rows(stream(), x, x_factor, none, none, y);
  EXPECT_EQ(read(y), (Values{6, 2, 63}));
  Tensor dweights = tensor(DType::f32, {3, 2}, {1, 2, 3, 4, 5, 6});
  ops::light_gradients(stream(), chosen, weights, none, x.view({3}), none, choices, dweights, none);
  EXPECT_EQ(read(dweights), (Values{10, 2, 3, 4, 5, 30}));
}

// In bf16 the whole sum is rounded once: 256 + 1 + 1 is 258, while 256 + 1 alone is rounded to 256.
TEST_P(LightExpertsTest, OneRounding) {
  const Tensor x = tensor(DType::bf16, {1, 1}, {1});
  Tensor y = tensor(DType::bf16, {1, 1}, {256});
  ops::add_light_rows(stream(), x, tensor(DType::f32, {1}, {1}), tensor(DType::f32, {1, 1}, {1}),
                      tensor(DType::f32, {1, 1}, {1}), y);
  EXPECT_EQ(read(y), Values{258});
}

TEST_P(LightExpertsTest, WorksOnNoRowsAndRefusesWhatDoesNotFit) {
  const Tensor chosen = i32({0, kSlots}, {});
  Tensor weights = unset(DType::f32, {0, kSlots});
  Tensor mixes = unset(DType::f32, {0, 6});
  Tensor x_factor = unset(DType::f32, {0});
  Tensor factors = unset(DType::f32, {0, 3});
  Tensor y = unset(DType::bf16, {0, 8});
  const Tensor table = normal(DType::f32, {3, 8}, "table");
  ops::light_factors(stream(), chosen, weights, mixes, kChoices, x_factor, factors);
  ops::add_light_rows(stream(), y, x_factor, factors, table, y);
  ops::light_gradients(stream(), chosen, weights, mixes, x_factor, factors, kChoices, weights, mixes);
  Tensor two = unset(DType::f32, {0, 2});
  EXPECT_THROW(ops::light_factors(stream(), chosen, weights, mixes, kChoices, x_factor, two), BugError);
  EXPECT_THROW(ops::add_light_rows(stream(), y, x_factor, two, table, y), BugError);
  EXPECT_THROW(ops::light_gradients(stream(), chosen, weights, two, x_factor, factors, kChoices, weights, mixes),
               BugError);
}

TRIREME_OP_DEVICES(LightExpertsTest);

}  // namespace
}  // namespace trireme::testing
