// The regular expressions of a tokenizer.json, written for Oniguruma, in PCRE2's syntax.
//
// Only what means the same in both is let through: literals, groups (?:…) and (?i:…), alternatives, quantifiers,
// character classes, \s \S \d \D \p{…} \P{…} \r \n \t \f \v, escaped punctuation, and (?=…) (?!…) that look at one
// character. \s becomes the characters that Unicode calls white space (PCRE2's own has U+180E too) and a script
// \p{Han} becomes \p{sc:Han} (PCRE2's plain names mean the wider script extensions).
//
// On the way it is worked out which neighbours a match may never hold, for cuts.h.
// Errors: ConfigError that names the place and the piece of the pattern.
#pragma once

#include <string>
#include <string_view>

namespace trireme::bpe {

struct Pattern {
  std::string pcre;
  // True unless it is certain that no match, complete or tried, holds these two characters side by side.
  bool newline_then_letter = true;   // '\n', then one of \p{L}
  bool visible_then_newline = true;  // one of \S, then '\n'
  // A match is certain to begin at every '\n' that none before it holds.
  bool matches_newline = false;
};

Pattern translate_pattern(std::string_view pattern, const std::string& where);

// The characters that Unicode calls white space, as the inside of a character class.
extern const char* const kWhiteSpaceClass;

}  // namespace trireme::bpe
