#include "core/data/bpe/added_tokens.h"

#include <algorithm>

#include "core/data/bpe/regex.h"
#include "core/data/bpe/white_space.h"
#include "core/data/utf8.h"

namespace trireme::bpe {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  roots_.fill(-1);
  for (size_t i = 0; i < tokens_.size(); ++i) insert(i);
  if (std::any_of(tokens_.begin(), tokens_.end(), [](const AddedToken& t) { return t.single_word; })) {
    word_ = std::make_unique<Regex>("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]", "an added token");
  }
}

AddedTokens::~AddedTokens() = default;

void AddedTokens::insert(size_t token) {
  int32_t parent = -1;
  for (const char c : tokens_[token].content) {
    const auto byte = static_cast<unsigned char>(c);
    const int32_t first = parent < 0 ? roots_[byte] : node(parent).child;
    int32_t found = first;
    while (found >= 0 && node(found).byte != byte) found = node(found).sibling;
    if (found < 0) {
      found = static_cast<int32_t>(trie_.size());
      trie_.push_back({.byte = byte, .sibling = first});
      (parent < 0 ? roots_[byte] : node(parent).child) = found;
    }
    parent = found;
  }
  if (node(parent).token < 0) node(parent).token = static_cast<int32_t>(token);
}

int32_t AddedTokens::match(std::string_view text, size_t at) const {
  int32_t longest = -1;
  int32_t here = roots_[static_cast<unsigned char>(text[at])];
  while (here >= 0) {
    if (node(here).token >= 0) longest = node(here).token;
    if (++at == text.size()) break;
    here = node(here).child;
    while (here >= 0 && node(here).byte != static_cast<unsigned char>(text[at])) here = node(here).sibling;
  }
  return longest;
}

bool AddedTokens::touches_a_word(std::string_view text, size_t begin, size_t end) const {
  const auto is_word = [&](std::string_view character) {
    Span ignored;
    return Matcher(*word_).find(character, 0, ignored);
  };
  if (begin > 0) {
    const std::string_view before = text.substr(0, begin);
    if (is_word(before.substr(last_character_begin(before)))) return true;
  }
  return end < text.size() && is_word(text.substr(end, utf8_character_bytes(text.substr(end))));
}

void AddedTokens::split(std::string_view text, const std::function<void(std::string_view)>& text_part,
                        const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (roots_[static_cast<unsigned char>(text[at])] < 0) {
      ++at;
      continue;
    }
    const int32_t found = match(text, at);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& added = tokens_[static_cast<size_t>(found)];
    size_t begin = at;
    size_t end = at + added.content.size();
    at = end;  // white space that rstrip takes is searched again
    if (added.single_word && touches_a_word(text, begin, end)) continue;
    if (added.lstrip) begin = std::max(done, trimmed_end(text.substr(0, begin)));
    if (added.rstrip) end += leading_space(text.substr(end));
    if (done < begin) text_part(text.substr(done, begin - done));
    // One of white space may lie within what the token before it took, and then it isn't there.
    if (begin < end) token(added.id);
    done = end;
  }
  if (done < text.size()) text_part(text.substr(done));
}

}  // namespace trireme::bpe
