// The table by which an optimizer's pass over a bucket knows whose element it has; read by the host compiler and by a
// CUDA compiler.
//
// A row for each parameter, or for the part of it that lies in this piece of the bucket. Positions count elements from
// the beginning of the tensors that are passed. Rows ascend and do not overlap; what lies between them is padding.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace trireme::ops {

struct UpdateRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t decays = 0;  // 1: weight decay acts on it
  int64_t key = 0;     // the bits of random_key(seed, name of the parameter)
  int64_t first = 0;   // the element of the parameter that lies at `begin`
};
inline constexpr int64_t kUpdateRangeColumns = 5;
static_assert(sizeof(UpdateRange) == kUpdateRangeColumns * sizeof(int64_t));

// The first row that ends behind `position`; num_ranges where there is none. The row holds the position if it
// begins at or before it.
TRIREME_HOST_DEVICE int64_t find_range(const UpdateRange* ranges, int64_t num_ranges, int64_t position) {
  int64_t low = 0;
  int64_t high = num_ranges;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ranges[middle].end > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// True when the draws of positions [position, position + 8) are one block of `range`: the group lies in it and begins
// at a multiple of 8 of its parameter. Almost every group of a real model does; the others need a block for each
// element (math.h, rounding_draw).
TRIREME_HOST_DEVICE bool is_whole_group(const UpdateRange& range, int64_t position) {
  return range.begin <= position && position + 8 <= range.end && ((position - range.begin + range.first) & 7) == 0;
}

}  // namespace trireme::ops
