// Boxes: axis-aligned parts of a logical tensor, the unit in which checkpoints store and load.
//
// A rank's memory is flat: a range of a bucket is a range of the flat elements of its part of a parameter
// (parallel/local_part.h). Such a range of an n-dimensional tensor is at most 2n − 1 boxes: a head, rows, a tail.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace trireme {

struct Box {
  Shape begin;  // first index along each dim
  Shape size;

  int64_t numel() const { return size.numel(); }
  std::string str() const;  // "[0:64, 128:192]"
  static Box whole(const Shape& shape);
  bool operator==(const Box&) const = default;
};

// The boxes of the global tensor that the elements [begin, end) of this rank's part of the parameter are, padding left
// out. Their elements, box after box, each row-major, come in ascending order of the local elements.
std::vector<Box> boxes_of(const Parameter& parameter, int64_t begin, int64_t end);

std::optional<Box> intersection(const Box& a, const Box& b);

// Calls run(element of `outer`, element of `inner`, n) for the stretches of `inner`'s elements that are consecutive in
// both, row-major, in ascending order. REQUIRES: `inner` lies in `outer`.
void for_each_run(const Box& outer, const Box& inner, const std::function<void(int64_t, int64_t, int64_t)>& run);

}  // namespace trireme
