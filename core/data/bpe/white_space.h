// White space as Unicode has it (the property White_Space), in UTF-8.
#pragma once

#include <cstddef>
#include <string_view>

namespace trireme::bpe {

// Bytes of white space at the beginning of the text.
size_t leading_space(std::string_view text);

// Where the white space at the end of the text begins.
size_t trimmed_end(std::string_view text);

// Where the last character begins. REQUIRES: the text isn't empty.
size_t last_character_begin(std::string_view text);

}  // namespace trireme::bpe
