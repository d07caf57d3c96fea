// The table by which an optimizer's pass over a bucket knows whose element it has; read by the host compiler and by a
// CUDA compiler.
//
// A row for each parameter, or for the part of it that lies in this piece of the bucket. Positions count elements from
// the beginning of the tensors that are passed. Rows ascend and do not overlap; what lies between them is padding.
//
// A rank that holds some columns of a matrix has them row by row: `columns` elements in memory, of which those exist that
// lie before the end of a row of the whole, `stride` elements long, in which they begin at `origin`. The others are
// padding too.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace trireme::ops {

struct UpdateRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t decays = 0;  // 1: weight decay acts on it
  int64_t key = 0;     // the bits of random_key(seed, name of the parameter)
  // The element of the parameter that lies at `begin`. With columns, the element of the columns that this rank holds.
  int64_t first = 0;
  int64_t columns = 0;  // 0: the elements follow each other in the parameter, too
  int64_t stride = 0;
  int64_t origin = 0;
};
inline constexpr int64_t kUpdateRangeColumns = 8;
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

// A stretch of positions whose elements follow each other in the parameter, or that are all padding.
struct UpdatePiece {
  int64_t element = 0;  // at the first position; -1: padding
  int64_t length = 0;   // may reach beyond the end of the range
};

// The stretch from a position of `range` on.
TRIREME_HOST_DEVICE UpdatePiece piece_at(const UpdateRange& range, int64_t position) {
  const int64_t held = position - range.begin + range.first;
  if (range.columns == 0) return {held, range.end - position};
  const int64_t column = held % range.columns;
  const int64_t left = range.columns - column;
  const int64_t exist = range.stride - range.origin - column;  // none where it isn't positive
  if (exist <= 0) return {-1, left};
  return {held / range.columns * range.stride + range.origin + column, exist < left ? exist : left};
}

// True when positions [position, position + n) lie in `range` and hold elements that follow each other.
TRIREME_HOST_DEVICE bool is_one_piece(const UpdateRange& range, int64_t position, int64_t n) {
  if (position < range.begin || position + n > range.end) return false;
  const UpdatePiece piece = piece_at(range, position);
  return piece.element >= 0 && piece.length >= n;
}

// True when the draws of positions [position, position + 8) are one block of `range`: the group lies in it and begins
// at a multiple of 8 of its parameter. Almost every group of a real model does; the others need a block for each
// element (math.h, rounding_draw).
TRIREME_HOST_DEVICE bool is_whole_group(const UpdateRange& range, int64_t position) {
  return is_one_piece(range, position, 8) && (piece_at(range, position).element & 7) == 0;
}

}  // namespace trireme::ops
