// Which id ends a document. The format of tokenizer.json doesn't say, so the rule is:
//   1. an added token named <|endoftext|> (GPT-2, Qwen) or <|end_of_text|> (Llama 3);
//   2. else the token that `eos_token` names in the tokenizer_config.json beside the file;
//   3. else none.
// Names come first because `eos_token` of a model tuned for conversation ends a turn, not a document.
// Errors: DataError when `eos_token` names no token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "core/data/bpe/tokenizer_json.h"

namespace trireme::bpe {

// `id_of` gives the id of a token, or nothing.
std::optional<int32_t> find_end_of_document(const TokenizerJson& json,
                                            const std::function<std::optional<int32_t>(const std::string&)>& id_of);

}  // namespace trireme::bpe
