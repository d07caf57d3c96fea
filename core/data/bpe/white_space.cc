#include "core/data/bpe/white_space.h"

namespace trireme::bpe {

namespace {

// Of the one character at the beginning; 0 when it is none.
size_t white_space_bytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto c = static_cast<unsigned char>(text[0]);
  if (c == ' ' || (c >= '\t' && c <= '\r')) return 1;
  if (c < 0x80) return 0;
  for (const std::string_view space :
       {"\u0085", "\u00A0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007",
        "\u2008", "\u2009", "\u200A", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"}) {
    if (text.starts_with(space)) return space.size();
  }
  return 0;
}

}  // namespace

size_t last_character_begin(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u) --at;
  return at;
}

size_t trimmed_end(std::string_view text) {
  while (!text.empty()) {
    const size_t last = last_character_begin(text);
    if (white_space_bytes(text.substr(last)) == 0) break;
    text = text.substr(0, last);
  }
  return text.size();
}

size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (const size_t bytes = white_space_bytes(text.substr(at))) at += bytes;
  return at;
}

}  // namespace trireme::bpe
