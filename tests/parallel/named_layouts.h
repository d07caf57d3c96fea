// A short list of layouts, for where the many random ones (layouts_test.cc) would take too long: processes under mpirun,
// emulated GPUs. Each axis and each mechanism alone, and all of them together.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "core/config/config.h"

namespace trireme::layouts {

struct NamedLayout {
  std::string name;
  int ranks = 1;
  std::vector<std::string> sets;  // over a tiny Llama of four layers and four heads
};
const std::vector<NamedLayout>& named_layouts();
inline void PrintTo(const NamedLayout& layout, std::ostream* out) { *out << layout.name; }  // for GoogleTest

// The tiny model in a layout; `sets` come last.
Config tiny_config(const std::vector<std::string>& sets);
Config named_config(const NamedLayout& layout, std::vector<std::string> sets = {});

}  // namespace trireme::layouts
