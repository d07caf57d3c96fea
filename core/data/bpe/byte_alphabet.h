// The alphabet of byte-level BPE: each of the 256 bytes is written as one visible Unicode character, so that
// vocabulary and merges are JSON strings. Bytes 0x21–0x7E, 0xA1–0xAC and 0xAE–0xFF are the characters of the same
// number; the other 68, in order, are U+0100 to U+0143 (a space is "Ġ").
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trireme::bpe {

// The bytes that `symbols` stands for; nothing when it holds another character than those of the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view symbols);

// The character of a byte, as UTF-8.
std::string symbol_of_byte(unsigned char byte);

}  // namespace trireme::bpe
