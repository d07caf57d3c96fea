#include "parallel/parameter.h"

namespace trireme {

Shape Weight::shape() const {
  TRIREME_CHECK(!parts.empty());
  const Shape& first = parts.front().shape;
  std::vector<int64_t> dims(first.dims().begin(), first.dims().end());
  dims[0] = 0;
  for (const Parameter& part : parts) {
    TRIREME_CHECK(part.shape.ndim() == first.ndim());
    for (int i = 1; i < first.ndim(); ++i) TRIREME_CHECK(part.shape[i] == first[i]);
    dims[0] += part.shape[0];
  }
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace trireme
