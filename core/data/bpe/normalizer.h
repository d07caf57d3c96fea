// Unicode normalization form C: characters and the marks that follow them are composed where one character exists
// (e + ◌́ → é).
#pragma once

#include <string>
#include <string_view>

namespace trireme::bpe {

// `text` itself, or, when something changed, what was written to `buffer`. REQUIRES: `text` is UTF-8.
std::string_view nfc(std::string_view text, std::string& buffer);

}  // namespace trireme::bpe
