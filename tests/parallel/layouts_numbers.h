// From the levels of a drawn layout to exact numbers: degrees, sizes, batch.
#pragma once

#include <string>
#include <vector>

#include "core/random/philox.h"
#include "tests/parallel/layouts_draw.h"

namespace trireme::layouts {

class Random {
 public:
  explicit Random(uint64_t key) : key_(key) {}
  // Uniform in [0, n).
  int below(int n) { return static_cast<int>(uniform_below(key_, at_++, static_cast<uint64_t>(n))); }
  template <class T>
  T pick(const std::vector<T>& values) {
    return values[static_cast<size_t>(below(static_cast<int>(values.size())))];
  }

 private:
  uint64_t key_;
  uint64_t at_ = 0;
};

// Whether these levels of the axes can make kMaxRanks ranks.
bool can_be_full(const Levels& levels);

// The --set arguments of a layout of these levels; with `full`, of kMaxRanks ranks.
std::vector<std::string> exact_numbers(const Levels& levels, bool full, Random& random);

}  // namespace trireme::layouts
