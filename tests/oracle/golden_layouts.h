// Layouts in which golden cases are run: on ranks as threads, on emulated GPUs, and as processes under mpirun.
#pragma once

#include <string>
#include <vector>

namespace trireme::golden {

struct Layout {
  std::string name;
  int ranks = 1;
  std::vector<std::string> sets;
  std::vector<std::string> cases;  // whose heads, layers and batch allow it
};
const std::vector<Layout>& layouts();

// One case in one of the layouts.
struct LayoutCase {
  std::string layout;
  std::string name;  // of the case
  int ranks = 1;
  std::vector<std::string> sets;
};
// Those of so many ranks at least and at most; of each layout the first `most_cases` cases.
std::vector<LayoutCase> layout_cases(int least_ranks, int most_ranks, size_t most_cases = 100);

}  // namespace trireme::golden
