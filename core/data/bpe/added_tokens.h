// Tokens beside the vocabulary of the merges, found in the text as they stand, before it is split into words: special
// ones such as <|endoftext|> and others.
//
// At each place the longest token wins. `normalized` ones are looked for in a second pass, in the normalized text
// between those of the first. Spaces that lstrip and rstrip take belong to the token and give no ids; a token that
// single_word turns down is passed over as a whole.
// Thread safety: const after construction.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/bpe/tokenizer_json.h"

namespace trireme::bpe {

class Regex;

class AddedTokens {
 public:
  // Earlier ones win where two have the same content; none is empty.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  ~AddedTokens();

  bool empty() const { return tokens_.empty(); }

  // Calls `text_part` for the texts between tokens and `token` for tokens, from left to right. Texts aren't empty.
  void split(std::string_view text, const std::function<void(std::string_view)>& text_part,
             const std::function<void(int32_t)>& token) const;

 private:
  // A tree of bytes: children of a node are chained.
  struct TrieNode {
    unsigned char byte = 0;
    int32_t child = -1;
    int32_t sibling = -1;
    int32_t token = -1;  // that ends here
  };
  TrieNode& node(int32_t i) { return trie_[static_cast<size_t>(i)]; }
  const TrieNode& node(int32_t i) const { return trie_[static_cast<size_t>(i)]; }
  void insert(size_t token);
  // The longest token that begins at `at`; −1 when there is none.
  int32_t match(std::string_view text, size_t at) const;
  bool touches_a_word(std::string_view text, size_t begin, size_t end) const;

  std::vector<AddedToken> tokens_;
  std::vector<TrieNode> trie_;
  std::array<int32_t, 256> roots_{};  // nodes of the first bytes, −1 where no token begins so
  std::unique_ptr<Regex> word_;       // one character of a word, where a token needs it
};

}  // namespace trireme::bpe
