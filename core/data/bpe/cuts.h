// Where a long text may be cut so that its parts, encoded apart, give the ids of the whole.
//
// A place is certain when (a) no match of the first pattern can span it, (b) a match begins there or right before it, so
// that the text between matches doesn't span it either, (c) no added token and no composition of characters spans it,
// and (d) the words before it are the same when the text ends there. (a) and (b) are properties of the pattern
// (pattern.h), (c) of the added tokens; (d) is tried out on the text back to the place before. Two kinds of places
// come into question:
//   between a line end and a letter         the patterns of Llama 3 and Qwen: a run of line ends is one word
//   between a visible character and '\n'    GPT-2's: white space is never in a word with what stands before it
// A tokenizer to which neither applies cuts nothing.
//
// (d) holds for all texts that go on after the place because assertions look at one character only.
// Thread safety: const after construction.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/data/bpe/pattern.h"
#include "core/data/bpe/regex.h"
#include "core/data/bpe/tokenizer_json.h"

namespace trireme::bpe {

class Cuts {
 public:
  using Encode = std::function<void(std::string_view, std::vector<int32_t>&)>;

  // `first` is the pattern that cuts first; null when there is none.
  Cuts(const Pattern* first, const TokenizerJson& json);

  // The last certain place of `text`, which begins at one or begins a document; 0 when there is none.
  size_t last(std::string_view text, const Encode& encode) const;

 private:
  struct Look;  // the matchers of one call
  // Where the character at `at`, with the marks that may be composed with it, ends; 0 when that can't be known.
  size_t end_of_letter(std::string_view text, size_t at, Look& look) const;
  bool is_place(std::string_view text, size_t at, Look& look) const;

  bool before_letter_ = false;
  bool before_newline_ = false;
  Regex letter_;
  Regex attached_;
};

}  // namespace trireme::bpe
