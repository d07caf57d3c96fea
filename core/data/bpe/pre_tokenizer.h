// Cuts a text into the words whose bytes are merged, by the regular expressions of a tokenizer.json, one after the
// other: each stage cuts the pieces that the one before it left.
//
// Thread safety: const after construction; `matchers()` are a thread's own.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/bpe/pattern.h"
#include "core/data/bpe/regex.h"
#include "core/data/bpe/tokenizer_json.h"

namespace trireme::bpe {

class PreTokenizer {
 public:
  explicit PreTokenizer(const TokenizerJson& json);

  std::vector<Matcher> matchers() const;
  // Calls `word` for each, from left to right. A word is not empty and lives until the call returns.
  void split(std::string_view text, std::vector<Matcher>& matchers,
             const std::function<void(std::string_view)>& word) const;

  // The pattern that cuts first; null when the text isn't cut at all.
  const Pattern* first_pattern() const { return stages_.empty() ? nullptr : &stages_.front().pattern; }

 private:
  struct Stage {
    explicit Stage(const SplitStage& from);
    Pattern pattern;
    Regex regex;
    bool keep_matches, keep_gaps, prefix_space;
  };
  void split_from(size_t stage, std::string_view text, std::vector<Matcher>& matchers,
                  const std::function<void(std::string_view)>& word) const;

  std::vector<Stage> stages_;
  bool prefix_space_;
};

}  // namespace trireme::bpe
