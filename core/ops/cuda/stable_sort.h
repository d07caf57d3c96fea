// Sorts positions by a small number that each has, on the device.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

struct SortedIds {
  Tensor ids;        // i32 [N], ascending
  Tensor positions;  // i32 [N]: where each stood; ascending among equal ids
};

// ids i32 [N], each in [0, bound). Equal ids keep their order, so that the result is the same run after run. The host
// learns nothing of it and does not wait.
SortedIds stable_sort(Stream& stream, const Tensor& ids, int64_t bound);

}  // namespace trireme::cuda
