// Choices in the order in which a router takes them: as numbers, all different, the greatest first.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace trireme::ops {

// Below the key of every choice.
inline constexpr uint64_t kNoChoice = 0;

// Greater for the greater value; of equal values (0 and −0 are) for the lower index. A NaN counts as less than −∞.
TRIREME_HOST_DEVICE uint64_t choice_key(float value, int64_t index) {
  const uint32_t bits = bit_cast<uint32_t>(value + 0.0f);  // −0 becomes 0
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  const uint64_t high = value != value ? 0 : ordered;
  return high << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(index));
}

TRIREME_HOST_DEVICE int32_t index_of_key(uint64_t key) {
  return static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(key));
}

// Two numbers, the greater first, of those that have been offered.
struct BestTwo {
  float first;
  float second;
};

TRIREME_HOST_DEVICE void offer(BestTwo& best, float value) {
  if (value > best.first) {
    best.second = best.first;
    best.first = value;
  } else if (value > best.second) {
    best.second = value;
  }
}

}  // namespace trireme::ops
