// Two checkpoints compared tensor by tensor, whatever layouts wrote them, in pieces.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/reader.h"

namespace trireme {

// How a tensor of `a` differs from that of `b`.
struct TensorDifference {
  std::string name;
  std::string note = {};      // why there are no numbers: "only in A", "[3, 4] and [4, 3]"; or "F32 and BF16"
  bool comparable = true;     // both have it, of one shape
  int64_t num_different = 0;  // elements of other bits, or of another value where the dtypes differ
  double largest = 0;   // |a − b|; infinite where just one is NaN or infinite, or they are infinities of two signs
  double relative = 0;  // to the largest finite |b| of the tensor
  int64_t at = 0;       // the flat element where it is largest
  double a = 0;         // there
  double b = 0;

  bool operator==(const TensorDifference&) const = default;
};

struct CheckpointDifference {
  std::vector<std::string> state;         // "step: 100 and 200"
  std::vector<TensorDifference> tensors;  // those that differ, the farthest first
  int64_t num_compared = 0;

  bool equal() const { return state.empty() && tensors.empty(); }
  // Nothing is farther apart than `tolerance`, relative to the largest value of its tensor; tensors that only one has, and
  // other shapes, are. Other dtypes and another bit pattern of an equal value aren't.
  bool within(double tolerance) const;
};

CheckpointDifference compare_checkpoints(const CheckpointReader& a, const CheckpointReader& b);

}  // namespace trireme
