#include "core/data/bpe/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace trireme::bpe {

namespace {

constexpr int kSymbolsEnd = 0x144;  // all characters of the alphabet lie below

struct Alphabet {
  std::array<int, 256> symbol{};
  std::array<int, kSymbolsEnd> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (int& byte : alphabet.byte) byte = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int symbol = visible ? byte : next++;
    alphabet.symbol[static_cast<size_t>(byte)] = symbol;
    alphabet.byte[static_cast<size_t>(symbol)] = byte;
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::optional<std::string> bytes_of_symbols(std::string_view symbols) {
  std::string bytes;
  bytes.reserve(symbols.size());
  for (size_t i = 0; i < symbols.size(); ++i) {
    auto c = static_cast<unsigned>(static_cast<unsigned char>(symbols[i]));
    if (c >= 0x80) {  // every character of the alphabet has at most two bytes
      if ((c & 0xE0u) != 0xC0u || i + 1 == symbols.size()) return std::nullopt;
      c = (c & 0x1Fu) << 6 | (static_cast<unsigned char>(symbols[++i]) & 0x3Fu);
    }
    if (c >= static_cast<unsigned>(kSymbolsEnd) || kAlphabet.byte[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[c]));
  }
  return bytes;
}

std::string symbol_of_byte(unsigned char byte) {
  const int symbol = kAlphabet.symbol[byte];
  if (symbol < 0x80) return std::string(1, static_cast<char>(symbol));
  return {static_cast<char>(0xC0 | symbol >> 6), static_cast<char>(0x80 | (symbol & 0x3F))};
}

}  // namespace trireme::bpe
