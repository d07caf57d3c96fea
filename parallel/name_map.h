// How the parameters of a model stand in a Hugging Face checkpoint: a plain table that `models` hand down to whoever
// reads or writes such files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace trireme {

// One parameter of ours is the rows [out_begin, out_begin + its dim 0) along the output dim of a Hugging Face tensor.
struct NameMapEntry {
  std::string parameter;  // our name
  std::string hf_name;
  Shape hf_shape;           // as stored
  bool transposed = false;  // stored [in, out]
  int64_t out_begin = 0;
  bool is_buffer = false;    // fp32 in every file
  bool is_optional = false;  // zeros where a file lacks it
};

struct NameMap {
  std::vector<NameMapEntry> entries;
  std::string optional_prefix;                // of hf_name, which some files leave out: "transformer." of GPT-2
  std::vector<std::string> ignored_suffixes;  // tensors that a file may hold besides, such as copies
  std::vector<std::string> ignored_prefixes;
};

}  // namespace trireme
