// The files of a tokenizer, copied beside exported weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/output_directory.h"

namespace trireme {

// Copies what `spec` (data.tokenizer) stands for: of a directory its tokenizer.json, tokenizer.model and the files that
// belong to them; a single file under one of those two names. Returns the names; none for `bytes`, or where nothing is
// there any more.
std::vector<std::string> copy_tokenizer(const std::string& spec, OutputDirectory& out);

// The id that ends a document; none where the tokenizer has none or can't be read.
std::optional<int64_t> end_of_document(const std::string& spec);

}  // namespace trireme
