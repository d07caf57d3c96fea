#include "checkpoint/box.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace trireme {

namespace {

using Dims = std::array<int64_t, Shape::kMaxDims>;

Shape shape_of(const Dims& dims, int ndim) {
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(ndim)));
}

// Appends the boxes of the flat elements [begin, end) of a tensor of this shape, from dim `dim` on; `at` has the indices
// along the dims before it.
void append_boxes(const Shape& shape, int dim, Dims at, int64_t begin, int64_t end, std::vector<Box>& boxes) {
  if (begin >= end) return;
  const int ndim = shape.ndim();
  int64_t inner = 1;
  for (int i = dim + 1; i < ndim; ++i) inner *= shape[i];
  // Whole indices of this dim, between a head and a tail that lie within one index each.
  const int64_t first_whole = (begin + inner - 1) / inner;
  const int64_t end_whole = end / inner;
  const auto part_of = [&](int64_t index, int64_t from, int64_t to) {
    at[static_cast<size_t>(dim)] = index;
    append_boxes(shape, dim + 1, at, from - index * inner, to - index * inner, boxes);
  };
  if (first_whole > end_whole) return part_of(end_whole, begin, end);
  if (begin < first_whole * inner) part_of(first_whole - 1, begin, first_whole * inner);
  if (first_whole < end_whole) {
    Dims size{};
    for (int i = 0; i < ndim; ++i) size[static_cast<size_t>(i)] = i < dim ? 1 : shape[i];
    for (int i = dim; i < ndim; ++i) at[static_cast<size_t>(i)] = 0;
    at[static_cast<size_t>(dim)] = first_whole;
    size[static_cast<size_t>(dim)] = end_whole - first_whole;
    boxes.push_back({shape_of(at, ndim), shape_of(size, ndim)});
  }
  if (end_whole * inner < end) part_of(end_whole, end_whole * inner, end);
}

// The first element of `inner` as seen from `outer`, and the strides of `outer`.
struct Walk {
  Dims strides{};
  int64_t first = 0;
};
Walk walk_of(const Box& outer, const Box& inner) {
  Walk walk;
  int64_t stride = 1;
  for (int i = outer.size.ndim() - 1; i >= 0; --i) {
    walk.strides[static_cast<size_t>(i)] = stride;
    walk.first += (inner.begin[i] - outer.begin[i]) * stride;
    stride *= outer.size[i];
  }
  return walk;
}

}  // namespace

std::string Box::str() const {
  std::string text = "[";
  for (int i = 0; i < begin.ndim(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(begin[i]) + ":" + std::to_string(begin[i] + size[i]);
  }
  return text + "]";
}

Box Box::whole(const Shape& shape) { return {shape_of({}, shape.ndim()), shape}; }

std::vector<Box> boxes_of(const Parameter& parameter, int64_t begin, int64_t end) {
  const LocalPart& part = parameter.part;
  std::vector<Box> local;
  append_boxes(parameter.local_shape(), 0, {}, begin, end, local);
  std::vector<Box> boxes;
  for (const Box& box : local) {
    const int ndim = box.size.ndim();
    Dims from{};
    Dims size{};
    for (int i = 0; i < ndim; ++i) {
      from[static_cast<size_t>(i)] = box.begin[i];
      size[static_cast<size_t>(i)] = box.size[i];
    }
    const auto dim = static_cast<size_t>(part.dim);
    size[dim] = std::min(box.begin[part.dim] + box.size[part.dim], part.size) - box.begin[part.dim];
    from[dim] += part.begin;
    if (size[dim] > 0) boxes.push_back({shape_of(from, ndim), shape_of(size, ndim)});
  }
  return boxes;
}

std::optional<Box> intersection(const Box& a, const Box& b) {
  TRIREME_CHECK(a.size.ndim() == b.size.ndim());
  Dims begin{};
  Dims size{};
  for (int i = 0; i < a.size.ndim(); ++i) {
    const auto at = static_cast<size_t>(i);
    begin[at] = std::max(a.begin[i], b.begin[i]);
    size[at] = std::min(a.begin[i] + a.size[i], b.begin[i] + b.size[i]) - begin[at];
    if (size[at] <= 0) return std::nullopt;
  }
  return Box{shape_of(begin, a.size.ndim()), shape_of(size, a.size.ndim())};
}

void for_each_run(const Box& outer, const Box& inner, const std::function<void(int64_t, int64_t, int64_t)>& run) {
  const int ndim = inner.size.ndim();
  const Walk walk = walk_of(outer, inner);
  // Dims from `joined` on are whole in both, so that their elements follow one another.
  int joined = ndim - 1;
  while (joined > 0 && inner.size[joined] == outer.size[joined]) --joined;
  int64_t run_length = 1;
  for (int i = joined; i < ndim; ++i) run_length *= inner.size[i];
  if (run_length == 0) return;
  const int64_t num_runs = inner.numel() / run_length;
  Dims at{};
  for (int64_t r = 0; r < num_runs; ++r) {
    int64_t element = walk.first;
    for (int i = 0; i < joined; ++i) element += at[static_cast<size_t>(i)] * walk.strides[static_cast<size_t>(i)];
    run(element, r * run_length, run_length);
    for (int i = joined - 1; i >= 0 && ++at[static_cast<size_t>(i)] == inner.size[i]; --i)
      at[static_cast<size_t>(i)] = 0;
  }
}

}  // namespace trireme
