// Which entries of a vocabulary a table, or a matrix of logits, holds: with tensor parallelism each rank has a part.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace trireme::ops {

// The entries [first, first + size), each by its id. Rows of a table, or columns of logits, behind them are padding,
// which no id ever meets. The parts of the ranks follow each other; the last may be short or empty.
struct VocabularyPart {
  int64_t first = 0;
  int64_t size = 0;

  // Where the entry `id` lies in this part, or −1.
  TRIREME_HOST_DEVICE int64_t index_of(int64_t id) const {
    const int64_t index = id - first;
    return index >= 0 && index < size ? index : -1;
  }
};

}  // namespace trireme::ops
