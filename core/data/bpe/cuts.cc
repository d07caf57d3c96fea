#include "core/data/bpe/cuts.h"

#include <algorithm>

#include "core/data/bpe/white_space.h"
#include "core/data/utf8.h"

namespace trireme::bpe {

namespace {

// Hangul letters, which compose with each other.
constexpr const char* kJamo = "\\x{1100}-\\x{11FF}\\x{A960}-\\x{A97F}\\x{D7B0}-\\x{D7FF}";

}  // namespace

struct Cuts::Look {
  explicit Look(const Cuts& cuts) : letter(cuts.letter_), attached(cuts.attached_) {}
  Matcher letter;
  Matcher attached;
};

Cuts::Cuts(const Pattern* first, const TokenizerJson& json)
    : letter_("(?![" + std::string(kJamo) + "])\\p{L}", "cuts"),
      attached_("[\\p{M}" + std::string(kJamo) + "]", "cuts") {
  if (first == nullptr || !first->matches_newline || json.stages.front().prefix_space) return;
  before_letter_ = !first->newline_then_letter;
  before_newline_ = !first->visible_then_newline;
  Look look(*this);
  for (const AddedToken& token : json.added_tokens) {
    if (token.content.find('\n') != std::string::npos) before_letter_ = before_newline_ = false;
    // What takes white space must not reach across.
    Span match;
    if (token.lstrip && look.letter.find(token.content, 0, match) && match.begin == 0) before_letter_ = false;
    if (token.rstrip) before_newline_ = false;
  }
}

size_t Cuts::end_of_letter(std::string_view text, size_t at, Look& look) const {
  Span ignored;
  size_t bytes = utf8_character_bytes(text.substr(at));
  if (bytes == 0 || !look.letter.find(text.substr(at, bytes), 0, ignored)) return 0;
  do {
    at += bytes;
    if (at >= text.size()) return 0;
    bytes = utf8_character_bytes(text.substr(at));
  } while (bytes > 0 && look.attached.find(text.substr(at, bytes), 0, ignored));
  return at;
}

bool Cuts::is_place(std::string_view text, size_t at, Look& look) const {
  if (at == 0 || at >= text.size()) return false;
  if (before_letter_ && text[at - 1] == '\n' && end_of_letter(text, at, look) != 0) return true;
  return before_newline_ && text[at] == '\n' && trimmed_end(text.substr(0, at)) == at;
}

size_t Cuts::last(std::string_view text, const Encode& encode) const {
  if (!before_letter_ && !before_newline_) return 0;
  Look look(*this);
  // The place before `at`, or 0.
  const auto place_before = [&](size_t at) {
    while (at > 1) {
      const size_t newline = text.rfind('\n', at - 1);  // the place is right before or right after it
      if (newline == std::string_view::npos) return size_t{0};
      if (newline + 1 < at && is_place(text, newline + 1, look)) return newline + 1;
      if (newline < at && is_place(text, newline, look)) return newline;
      at = newline;
    }
    return size_t{0};
  };
  for (size_t at = place_before(text.size()); at > 0;) {
    const size_t before = place_before(at);
    const size_t end = text[at] == '\n' ? at + 1 : end_of_letter(text, at, look);
    std::vector<int32_t> whole;
    std::vector<int32_t> parts;
    encode(text.substr(before, end - before), whole);
    encode(text.substr(before, at - before), parts);
    encode(text.substr(at, end - at), parts);
    if (whole == parts) return at;
    at = before;
  }
  return 0;
}

}  // namespace trireme::bpe
