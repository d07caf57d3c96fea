#include <cmath>
#include <limits>
#include <utility>

#include "core/ops/cross_entropy.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

Values reference_losses(const Values& logits, const std::vector<int32_t>& labels, size_t columns) {
  Values losses;
  for (size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] == ops::kIgnoredLabel) {
      losses.push_back(0);
      continue;
    }
    const double* row = logits.data() + n * columns;
    double max = row[0];
    for (size_t i = 1; i < columns; ++i) max = std::max(max, row[i]);
    double sum = 0;
    for (size_t i = 0; i < columns; ++i) sum += std::exp(row[i] - max);
    losses.push_back(max + std::log(sum) - row[labels[n]]);
  }
  return losses;
}

Values reference_gradient(const Values& logits, const std::vector<int32_t>& labels, size_t columns, double scale) {
  Values gradient(logits.size());
  const Values losses = reference_losses(logits, labels, columns);
  for (size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] == ops::kIgnoredLabel) continue;
    const double log_sum = losses[n] + logits[n * columns + static_cast<size_t>(labels[n])];
    for (size_t i = 0; i < columns; ++i) {
      const double p = std::exp(logits[n * columns + i] - log_sum);
      gradient[n * columns + i] = scale * (p - (i == static_cast<size_t>(labels[n]) ? 1 : 0));
    }
  }
  return gradient;
}

// Random labels, every third ignored.
std::vector<int32_t> make_labels(int64_t rows, int64_t columns) {
  std::vector<int32_t> labels = uniform_ids(rows, columns, "labels");
  for (size_t n = 2; n < labels.size(); n += 3) labels[n] = ops::kIgnoredLabel;
  return labels;
}

// Rows of `columns` values in rows of `width`, with `padding` behind.
Values widened(const Values& x, int64_t columns, int64_t width,
               double padding = std::numeric_limits<double>::quiet_NaN()) {
  Values out;
  for (auto row = x.begin(); row != x.end(); row += columns) {
    out.insert(out.end(), row, row + columns);
    out.insert(out.end(), static_cast<size_t>(width - columns), padding);
  }
  return out;
}

void expect_padding_is_zero(const Values& d, int64_t columns, int64_t width) {
  for (size_t i = 0; i < d.size(); ++i) {
    EXPECT_TRUE(static_cast<int64_t>(i) % width < columns || d[i] == 0) << "element " << i;
  }
}

constexpr float kScale = 0.125f;

class CrossEntropyTest : public OpTest {
 protected:
  Tensor scale_tensor(float scale = kScale) { return tensor(DType::f32, {1}, {static_cast<double>(scale)}); }
};

TEST_P(CrossEntropyTest, MatchesReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Shape& shape : {Shape{0, 3}, Shape{1, 1}, Shape{3, 3}, Shape{17, 17}, Shape{5, 63}, Shape{5, 65},
                               Shape{4, 130}, Shape{2, 2049}, Shape{3, 50257}}) {
      const auto columns = static_cast<size_t>(shape[1]);
      const Tensor logits = normal(DType::f32, shape, "logits", 4.0);
      const std::vector<int32_t> labels = make_labels(shape[0], shape[1]);
      Tensor losses = unset(DType::f32, {shape[0]});
      Tensor dlogits = unset(dtype, shape);
      ops::cross_entropy(stream(), logits, make_ids(stream(), labels), {0, shape[1]}, {}, scale_tensor(), losses,
                         dlogits);
      const Values x = read(logits);
      expect_close(read(losses), reference_losses(x, labels, columns), tolerance(DType::f32, OpKind::reduction),
                   shape.str());
      expect_close(read(dlogits), reference_gradient(x, labels, columns, kScale), tolerance(dtype, OpKind::reduction),
                   "gradient " + shape.str());
    }
  }
}

TEST_P(CrossEntropyTest, GradientIsTheSlopeOfTheLoss) {
  const std::vector<int32_t> labels = make_labels(4, 17);
  const Values x = read(normal(DType::f32, {4, 17}, "logits", 2.0));
  const auto loss = [&](const Values& at) {
    const Values losses = reference_losses(at, labels, 17);
    return kScale * dot(losses, Values(losses.size(), 1.0));
  };
  Tensor losses = unset(DType::f32, {4});
  Tensor dlogits = unset(DType::f32, {4, 17});
  ops::cross_entropy(stream(), tensor(DType::f32, {4, 17}, x), make_ids(stream(), labels), {0, 17}, {}, scale_tensor(),
                     losses, dlogits);
  expect_close(read(dlogits), gradient_of(loss, x), tolerance(DType::f32, OpKind::reduction), "dlogits");

  const Values along = normal_values(4 * 17, "along");
  const auto own_loss = [&](const Values& at) {
    Tensor none;
    ops::cross_entropy(stream(), tensor(DType::f32, {4, 17}, at), make_ids(stream(), labels), {0, 17}, {},
                       scale_tensor(), losses, none);
    return kScale * dot(read(losses), Values(4, 1.0));
  };
  const double want = (own_loss(plus(x, 1e-2, along)) - own_loss(plus(x, -1e-2, along))) / 2e-2;
  EXPECT_NEAR(dot(read(dlogits), along), want, kForwardDifferenceTolerance * std::abs(want));
}

TEST_P(CrossEntropyTest, InPlaceAndWithoutGradient) {
  const Shape shape{7, 3001};
  const Tensor labels = make_ids(stream(), make_labels(7, 3001));
  Tensor logits = normal(DType::f32, shape, "logits", 4.0);
  Tensor losses = unset(DType::f32, {7});
  Tensor dlogits = unset(DType::f32, shape);
  ops::cross_entropy(stream(), logits, labels, {0, 3001}, {}, scale_tensor(), losses, dlogits);
  const Values want = read(losses);
  const Values before = read(logits);
  Tensor none;
  ops::cross_entropy(stream(), logits, labels, {0, 3001}, {}, scale_tensor(), losses, none);
  EXPECT_EQ(read(losses), want);
  EXPECT_EQ(read(logits), before);
  ops::cross_entropy(stream(), logits, labels, {0, 3001}, {}, scale_tensor(), losses, logits);
  EXPECT_EQ(read(losses), want);
  EXPECT_EQ(read(logits), read(dlogits));
}

// bf16 logits: what a bf16 model has on a GPU. The loss is that of the logits as rounded.
TEST_P(CrossEntropyTest, NarrowLogits) {
  for (const Shape& shape : {Shape{3, 3}, Shape{17, 17}, Shape{5, 2051}, Shape{2, 4096}, Shape{3, 90001}}) {
    const auto columns = static_cast<size_t>(shape[1]);
    Tensor logits = normal(DType::bf16, shape, "logits", 4.0);
    const Values x = read(logits);
    const std::vector<int32_t> labels = make_labels(shape[0], shape[1]);
    Tensor losses = unset(DType::f32, {shape[0]});
    ops::cross_entropy(stream(), logits, make_ids(stream(), labels), {0, shape[1]}, {}, scale_tensor(), losses, logits);
    expect_close(read(losses), reference_losses(x, labels, columns), tolerance(DType::f32, OpKind::reduction),
                 shape.str());
    expect_close(read(logits), reference_gradient(x, labels, columns, kScale),
                 tolerance(DType::bf16, OpKind::reduction), "gradient " + shape.str());
  }
}

// A gradient wider than the logits; rows of both that begin at other places of a vector.
TEST_P(CrossEntropyTest, NarrowLogitsWideGradient) {
  for (const Shape& shape : {Shape{5, 2051}, Shape{3, 520}}) {
    const Tensor logits = normal(DType::bf16, shape, "logits", 4.0);
    const std::vector<int32_t> labels = make_labels(shape[0], shape[1]);
    const Tensor room = unset(DType::f32, {shape.numel() + 1});
    Tensor losses = unset(DType::f32, {shape[0]});
    for (const int64_t offset : {0, 1}) {
      Tensor dlogits = room.flat_slice(offset, shape);
      ops::cross_entropy(stream(), logits, make_ids(stream(), labels), {0, shape[1]}, {}, scale_tensor(), losses,
                         dlogits);
      expect_close(read(dlogits), reference_gradient(read(logits), labels, static_cast<size_t>(shape[1]), kScale),
                   tolerance(DType::f32, OpKind::reduction), shape.str());
    }
  }
}

TEST_P(CrossEntropyTest, InverseCount) {
  for (const double count : {0.0, 1.0, 3.0, 1e9}) {
    Tensor scale = unset(DType::f32, {1});
    ops::inverse_count(stream(), tensor(DType::i64, {1}, {count}), scale);
    EXPECT_EQ(read(scale)[0], count > 0 ? static_cast<double>(static_cast<float>(1.0 / count)) : 0.0);
  }
}

// Maxima that grow along the row, logits far apart, masked columns.
TEST_P(CrossEntropyTest, ExtremeLogits) {
  const size_t columns = 5000;
  Values x(3 * columns);
  for (size_t i = 0; i < columns; ++i) {
    x[i] = static_cast<double>(i) * 0.5;
    x[columns + i] = i < 4000 ? -std::numeric_limits<double>::infinity() : 1.0;
    x[2 * columns + i] = -1e30;
  }
  x[2 * columns + 7] = 1e30;
  const std::vector<int32_t> labels = {4990, 4500, 7};
  Tensor losses = unset(DType::f32, {3});
  Tensor dlogits = unset(DType::f32, {3, 5000});
  ops::cross_entropy(stream(), tensor(DType::f32, {3, 5000}, x), make_ids(stream(), labels), {0, 5000}, {},
                     scale_tensor(1.0f), losses, dlogits);
  expect_close(read(losses), reference_losses(x, labels, columns), tolerance(DType::f32, OpKind::reduction), "losses");
  expect_close(read(dlogits), reference_gradient(x, labels, columns, 1), tolerance(DType::f32, OpKind::reduction),
               "dlogits");
}

TEST_P(CrossEntropyTest, NanReachesTheLoss) {
  Values x(3000, 1.0);
  x[2999] = std::numeric_limits<double>::quiet_NaN();
  Tensor losses = unset(DType::f32, {1});
  Tensor none;
  ops::cross_entropy(stream(), tensor(DType::f32, {1, 3000}, x), make_ids(stream(), {5}), {0, 3000}, {},
                     scale_tensor(1.0f), losses, none);
  EXPECT_TRUE(std::isnan(read(losses)[0]));
}

TEST_P(CrossEntropyTest, SameBitsOnAnyPool) {
  expect_same_bits_on_any_pool([](Stream& s) {
    const Tensor logits = make_tensor(s, DType::f32, {101, 777}, normal_values(101 * 777, "logits"));
    Tensor losses = make_unset(s, DType::f32, {101});
    Tensor dlogits = make_unset(s, DType::bf16, {101, 777});
    const Tensor scale = make_tensor(s, DType::f32, {1}, {kScale});
    ops::cross_entropy(s, logits, make_ids(s, make_labels(101, 777)), {0, 777}, {}, scale, losses, dlogits);
    return std::vector<Tensor>{losses, dlogits};
  });
}

TEST_P(CrossEntropyTest, RefusesALabelOutsideTheVocabulary) {
  if (GetParam().type != DeviceType::cpu) return;  // a kernel on a GPU does not look
  Tensor losses = unset(DType::f32, {1});
  Tensor none;
  const Tensor logits = normal(DType::f32, {1, 3}, "logits");
  EXPECT_THROW(
      ops::cross_entropy(stream(), logits, make_ids(stream(), {3}), {0, 3}, {}, scale_tensor(1.0f), losses, none),
      BugError);
  EXPECT_THROW(
      ops::cross_entropy(stream(), logits, make_ids(stream(), {-1}), {0, 3}, {}, scale_tensor(1.0f), losses, none),
      BugError);
}

// Padding behind the whole vocabulary holds NaN: it counts nowhere, and gets zeros.
TEST_P(CrossEntropyTest, PaddingIsNoPartOfTheSoftmax) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [vocabulary, width] : {std::pair<int64_t, int64_t>{5, 8}, {67, 72}, {67, 69}, {3000, 3007}}) {
      const Shape shape{4, vocabulary};
      const Values x = read(normal(dtype, shape, "logits", 4.0));
      const std::vector<int32_t> labels = make_labels(4, vocabulary);
      Tensor logits = tensor(dtype, {4, width}, widened(x, vocabulary, width));
      Tensor losses = unset(DType::f32, {4});
      ops::cross_entropy(stream(), logits, make_ids(stream(), labels), {0, vocabulary}, {}, scale_tensor(), losses,
                         logits);
      const auto columns = static_cast<size_t>(vocabulary);
      expect_close(read(losses), reference_losses(x, labels, columns), tolerance(DType::f32, OpKind::reduction),
                   "loss");
      const Values want = widened(reference_gradient(x, labels, columns, kScale), vocabulary, width, 0);
      expect_close(read(logits), want, tolerance(dtype, OpKind::reduction), "gradient");
      expect_padding_is_zero(read(logits), vocabulary, width);
    }
  }
}

TRIREME_OP_DEVICES(CrossEntropyTest);

}  // namespace
}  // namespace trireme::testing
