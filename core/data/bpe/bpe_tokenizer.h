// Byte-level BPE from a tokenizer.json (README.md of this folder).
#pragma once

#include <memory>
#include <string>

#include "core/data/tokenizer.h"

namespace trireme::bpe {

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const std::string& path);

}  // namespace trireme::bpe
