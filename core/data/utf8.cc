#include "core/data/utf8.h"

#include <cstring>

namespace trireme {

namespace {

struct Prefix {
  size_t bytes = 0;  // at the beginning of the text that can begin a character; at least 1
  bool whole = false;
};

// REQUIRES: `text` isn't empty.
Prefix character_prefix(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {1, false};
  const size_t count = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  // The second byte rules out overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < count; ++i) {
    if (i == text.size() || byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return {i, false};
  }
  return {count, true};
}

// Bytes of ASCII at the beginning, a multiple of eight.
size_t ascii_bytes(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t eight = 0;
    std::memcpy(&eight, text.data() + i, 8);
    if ((eight & 0x8080808080808080u) != 0) break;
  }
  return i;
}

}  // namespace

size_t utf8_character_bytes(std::string_view text) {
  if (text.empty()) return 0;
  const Prefix prefix = character_prefix(text);
  return prefix.whole ? prefix.bytes : 0;
}

bool is_utf8(std::string_view text) {
  for (size_t i = ascii_bytes(text); i < text.size();) {
    const Prefix prefix = character_prefix(text.substr(i));
    if (!prefix.whole) return false;
    i += prefix.bytes;
    if (prefix.bytes == 1) i += ascii_bytes(text.substr(i));
  }
  return true;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Prefix prefix = character_prefix(text.substr(i));
    if (prefix.whole) {
      out += text.substr(i, prefix.bytes);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += prefix.bytes;
  }
  return out;
}

void append_utf8(uint32_t c, std::string& text) {
  const auto put = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace trireme
