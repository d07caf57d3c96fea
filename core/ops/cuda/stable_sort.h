// Sorts positions by a small number that each has, on the device.
#pragma once

#include "core/ops/vocabulary_part.h"
#include "core/tensor/tensor.h"

namespace trireme::cuda {

struct SortedIds {
  Tensor ids;        // i32 [N], ascending, as they count
  Tensor positions;  // i32 [N]: where each stood; ascending among equal ids
};

// ids i32 [N]. Those of `part` count from its beginning; all others count as part.size, behind them. Equal ids keep their
// order, so that the result is the same run after run. The host learns nothing of it and does not wait.
SortedIds stable_sort(Stream& stream, const Tensor& ids, const ops::VocabularyPart& part);

}  // namespace trireme::cuda
