#include "parallel/local_part.h"

#include <algorithm>

namespace trireme {

LocalPart LocalPart::whole(const Shape& shape) { return {.dim = 0, .begin = 0, .size = shape[0], .padded = shape[0]}; }

LocalPart LocalPart::share(const Shape& shape, int dim, int64_t degree, int64_t index, int64_t granule) {
  TRIREME_CHECK(dim >= 0 && dim < shape.ndim() && index >= 0 && index < degree && granule >= 1);
  const int64_t n = shape[dim];
  const int64_t fair = (n + degree - 1) / degree;
  const int64_t padded = (fair + granule - 1) / granule * granule;
  const int64_t begin = std::min(n, index * padded);
  return {.dim = dim, .begin = begin, .size = std::min(n, begin + padded) - begin, .padded = padded};
}

Shape LocalPart::local_shape(const Shape& global) const {
  std::array<int64_t, Shape::kMaxDims> dims{};
  std::copy(global.dims().begin(), global.dims().end(), dims.begin());
  dims[static_cast<size_t>(dim)] = padded;
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(global.ndim())));
}

void LocalPart::for_each_run(const Shape& global, int64_t local_begin, int64_t local_end,
                             const std::function<void(int64_t, int64_t, int64_t)>& run) const {
  int64_t outer = 1;
  int64_t inner = 1;
  for (int i = 0; i < dim; ++i) outer *= global[i];
  for (int i = dim + 1; i < global.ndim(); ++i) inner *= global[i];
  const int64_t row = padded * inner;  // local elements of one outer index, padding included
  if (row == 0) return;
  for (int64_t o = local_begin / row; o < outer && o * row < local_end; ++o) {
    const int64_t from = std::max(local_begin, o * row);
    const int64_t to = std::min(local_end, o * row + size * inner);
    if (from >= to) continue;
    run(from, (o * global[dim] + begin) * inner + (from - o * row), to - from);
  }
}

}  // namespace trireme
