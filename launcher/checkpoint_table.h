// What `trireme checkpoint inspect` and `diff` print.
#pragma once

#include <cstddef>
#include <string>

#include "checkpoint/checkpoint_diff.h"
#include "checkpoint/manifest.h"

namespace trireme {

// "1 file", "3 files".
template <class Count>
std::string count_text(Count count, const std::string& thing) {
  return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

// Where the run stood, the model, files, tensors, totals; for people and for programs.
std::string checkpoint_table(const std::string& path, const Manifest& manifest);
std::string checkpoint_json(const std::string& path, const Manifest& manifest);

// The differences, at most `rows` tensors of them (0: all).
std::string difference_table(const CheckpointDifference& difference, size_t rows);

}  // namespace trireme
