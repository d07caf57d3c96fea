// Checks and repairs UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace trireme {

bool is_utf8(std::string_view text);

// Bytes of the character at the beginning of `text`; 0 when there is none.
size_t utf8_character_bytes(std::string_view text);

// What is no character becomes U+FFFD: one for each beginning of a character that goes on wrong, as long as it is
// right, and one for each other byte. Browsers and Python's errors="replace" do the same.
std::string repair_utf8(std::string_view text);

void append_utf8(uint32_t character, std::string& text);

}  // namespace trireme
