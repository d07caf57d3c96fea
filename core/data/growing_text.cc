#include "core/data/growing_text.h"

#include <algorithm>

#include "core/data/utf8.h"

namespace trireme {

namespace {

// The length of `text` without what further bytes may turn into a character: its beginning at the end of the text, or
// the U+FFFD that SentencePiece shows in its place.
size_t settled_bytes(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  const size_t size = text.size();
  for (int i = 0; i < 3 && text.ends_with(kReplacement); ++i) text.remove_suffix(kReplacement.size());
  if (text.size() < size) return text.size();
  for (size_t back = 1; back <= std::min<size_t>(3, size); ++back) {
    const auto c = static_cast<unsigned char>(text[size - back]);
    if ((c & 0xC0u) == 0x80u) continue;
    const size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    return need > back ? size - back : size;
  }
  return size;
}

}  // namespace

std::string GrowingText::give(const std::string& text, size_t end) {
  if (end <= given_) return "";
  const std::string piece = repair_utf8(std::string_view(text).substr(given_, end - given_));
  given_ = end;
  return piece;
}

std::string GrowingText::add(int32_t id) {
  ids_.push_back(id);
  const std::string text = tokenizer_.decode(ids_);
  return give(text, settled_bytes(text));
}

std::string GrowingText::finish() {
  const std::string text = tokenizer_.decode(ids_);
  return give(text, text.size());
}

}  // namespace trireme
