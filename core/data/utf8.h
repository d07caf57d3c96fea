// Checks and repairs UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
#pragma once

#include <string>
#include <string_view>

namespace trireme {

bool is_utf8(std::string_view text);

// Every byte that belongs to no character becomes U+FFFD.
std::string repair_utf8(std::string_view text);

}  // namespace trireme
