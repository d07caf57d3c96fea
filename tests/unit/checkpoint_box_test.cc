// Boxes against a walk over single elements.
#include "checkpoint/box.h"

#include <gtest/gtest.h>

#include <random>

namespace trireme {
namespace {

using Random = std::mt19937;

int64_t below(Random& random, int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(random); }

Shape random_shape(Random& random, int64_t largest) {
  std::vector<int64_t> dims(static_cast<size_t>(1 + below(random, 4)));
  for (int64_t& dim : dims) dim = 1 + below(random, largest);
  return Shape(std::span<const int64_t>(dims));
}

// The flat elements of a tensor that a box has, row-major.
std::vector<int64_t> elements_of(const Shape& shape, const Box& box) {
  std::vector<int64_t> elements;
  for (int64_t flat = 0; flat < shape.numel(); ++flat) {
    int64_t rest = flat;
    bool inside = true;
    for (int i = shape.ndim() - 1; i >= 0; --i) {
      const int64_t index = rest % shape[i];
      rest /= shape[i];
      inside = inside && index >= box.begin[i] && index < box.begin[i] + box.size[i];
    }
    if (inside) elements.push_back(flat);
  }
  return elements;
}

TEST(Boxes, OfARangeAreItsElementsInOrderAndFew) {
  Random random(1);
  for (int i = 0; i < 3000; ++i) {
    Parameter parameter;
    parameter.shape = random_shape(random, 6);
    const int dim = static_cast<int>(below(random, parameter.shape.ndim()));
    const int64_t degree = 1 + below(random, 4);
    parameter.part = LocalPart::share(parameter.shape, dim, degree, below(random, degree), 1 + below(random, 3));
    const int64_t n = parameter.local_shape().numel();
    const int64_t begin = below(random, n + 1);
    const int64_t end = begin + below(random, n - begin + 1);
    std::vector<int64_t> expected;
    parameter.part.for_each_run(parameter.shape, begin, end, [&](int64_t, int64_t global, int64_t count) {
      for (int64_t e = 0; e < count; ++e) expected.push_back(global + e);
    });
    std::vector<int64_t> found;
    const std::vector<Box> boxes = boxes_of(parameter, begin, end);
    for (const Box& box : boxes) {
      for (const int64_t e : elements_of(parameter.shape, box)) found.push_back(e);
    }
    ASSERT_EQ(found, expected) << parameter.shape.str() << " dim " << dim << ", " << begin << " to " << end;
    ASSERT_LE(std::ssize(boxes), 2 * parameter.shape.ndim() - 1);
  }
}

Box random_box(Random& random, const Shape& shape) {
  std::vector<int64_t> begin, size;
  for (const int64_t dim : shape.dims()) {
    begin.push_back(below(random, dim));
    size.push_back(1 + below(random, dim - begin.back()));
  }
  return {Shape(std::span<const int64_t>(begin)), Shape(std::span<const int64_t>(size))};
}

TEST(Boxes, RunsFindTheElementsOfTheInnerBox) {
  Random random(2);
  int met = 0;
  for (int i = 0; i < 3000; ++i) {
    const Shape shape = random_shape(random, 5);
    const Box outer = random_box(random, shape);
    const Box other = random_box(random, shape);
    const auto outer_elements = elements_of(shape, outer);
    const auto other_elements = elements_of(shape, other);
    std::vector<int64_t> expected;
    std::set_intersection(outer_elements.begin(), outer_elements.end(), other_elements.begin(), other_elements.end(),
                          std::back_inserter(expected));
    const auto common = intersection(outer, other);
    ASSERT_EQ(common.has_value(), !expected.empty());
    if (!common) continue;
    ++met;
    std::vector<int64_t> found;
    for_each_run(outer, *common, [&](int64_t from, int64_t first, int64_t n) {
      ASSERT_EQ(first, std::ssize(found));
      for (int64_t e = 0; e < n; ++e) found.push_back(outer_elements[static_cast<size_t>(from + e)]);
    });
    ASSERT_EQ(found, expected) << outer.str() << " and " << other.str() << " of " << shape.str();
  }
  EXPECT_GT(met, 500);
}

}  // namespace
}  // namespace trireme
