// The part of a global tensor that one rank holds: a range of indices along one dim, everything in the others.
//
// In memory the range may be longer than what exists of the tensor; the rest is padding, zero for ever. All counts are
// elements, all offsets flat and row-major.
#pragma once

#include <cstdint>
#include <functional>

#include "core/tensor/tensor.h"

namespace trireme {

struct LocalPart {
  int dim = 0;
  int64_t begin = 0;   // first index along `dim`
  int64_t size = 0;    // indices that exist, from `begin` on; 0 where the part lies wholly behind the edge
  int64_t padded = 0;  // indices in memory, at least `size`

  // All of a tensor of this shape.
  static LocalPart whole(const Shape& shape);
  // Share `index` of `degree` along `dim`: ceil(n / degree) indices, rounded up to a multiple of `granule`; the last
  // shares may hold fewer that exist, or none.
  static LocalPart share(const Shape& shape, int dim, int64_t degree, int64_t index, int64_t granule);

  Shape local_shape(const Shape& global) const;

  // Calls run(local offset, global offset, n) for the contiguous stretches of the local elements [begin, end) that
  // exist in the global tensor, in ascending order.
  void for_each_run(const Shape& global, int64_t local_begin, int64_t local_end,
                    const std::function<void(int64_t, int64_t, int64_t)>& run) const;

  bool operator==(const LocalPart&) const = default;
};

}  // namespace trireme
