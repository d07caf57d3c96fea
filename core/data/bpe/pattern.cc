#include "core/data/bpe/pattern.h"

#include <algorithm>
#include <cstdint>

#include "core/data/bpe/regex.h"
#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme::bpe {

const char* const kWhiteSpaceClass =
    "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";

namespace {

// Kinds of characters whose neighbourhood matters.
enum Kind : unsigned { kNewline = 1, kLetter = 2, kVisible = 4, kAllKinds = 7 };

// What is known of the texts that a part of the pattern matches.
struct Part {
  bool nullable = true;      // it matches nothing at all as well
  unsigned first = 0;        // kinds that may begin it
  unsigned last = 0;         // kinds that may end it
  bool one_newline = false;  // certain to match a single '\n', whatever stands around it
  bool asserts = false;      // it can fail although its characters are there
};

std::string white_space_set(bool negated) { return std::string(negated ? "[^" : "[") + kWhiteSpaceClass + "]"; }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Every character, for asking what a class holds. Surrogates are none.
std::string all_characters() {
  std::string text;
  for (uint32_t c = 1; c < 0x110000; ++c) {
    if (c < 0xD800 || c > 0xDFFF) append_utf8(c, text);
  }
  return text;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  Pattern run() {
    const Part whole = alternatives();
    if (at_ < pattern_.size()) refuse(1);
    result_.pcre = std::move(out_);
    result_.newline_then_letter = newline_then_letter_;
    result_.visible_then_newline = visible_then_newline_;
    result_.matches_newline = whole.one_newline;
    return result_;
  }

 private:
  [[noreturn]] void refuse(size_t length) const {
    throw ConfigError({.what = "a regular expression uses what isn't built",
                       .found = "'" + std::string(pattern_.substr(at_, length)) + "' at byte " + std::to_string(at_) +
                                " of '" + std::string(pattern_) + "'",
                       .where = where_});
  }
  bool ended() const { return at_ == pattern_.size(); }
  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(size_t count) {
    if (at_ + count > pattern_.size()) refuse(count);
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }

  void note_neighbours(unsigned left, unsigned right) {
    if ((left & kNewline) && (right & kLetter)) newline_then_letter_ = true;
    if ((left & kVisible) && (right & kNewline)) visible_then_newline_ = true;
  }

  Part alternatives() {
    Part any = sequence();
    while (!ended() && pattern_[at_] == '|') {
      copy(1);
      const Part part = sequence();
      any.nullable |= part.nullable;
      any.first |= part.first;
      any.last |= part.last;
      any.one_newline |= part.one_newline;
      any.asserts |= part.asserts;
    }
    return any;
  }

  Part sequence() {
    Part all;
    while (!ended() && pattern_[at_] != '|' && pattern_[at_] != ')') {
      const Part part = quantified();
      note_neighbours(all.last, part.first);
      // One of the two gives the line end, and the other can be empty.
      all.one_newline =
          !all.asserts && !part.asserts && ((all.one_newline && part.nullable) || (all.nullable && part.one_newline));
      all.asserts |= part.asserts;
      if (all.nullable) all.first |= part.first;
      all.last = part.nullable ? all.last | part.last : part.last;
      all.nullable &= part.nullable;
    }
    return all;
  }

  Part quantified() {
    Part part = atom();
    if (ended()) return part;
    bool many = false;
    const char c = pattern_[at_];
    if (c == '?' || c == '*' || c == '+') {
      many = c != '?';
      part.nullable |= c != '+';
      copy(1);
      if (!ended() && (pattern_[at_] == '?' || pattern_[at_] == '+')) {
        if (pattern_[at_] == '+') part.one_newline = false, part.asserts = true;  // it gives nothing back
        copy(1);
      }
    } else if (c == '{') {
      many = true;
      size_t end = at_ + 1;
      while (end < pattern_.size() && (is_digit(pattern_[end]) || pattern_[end] == ',')) ++end;
      const std::string_view counts = pattern_.substr(at_ + 1, end - at_ - 1);
      if (end == pattern_.size() || pattern_[end] != '}' || counts.empty() || counts[0] == ',') refuse(end - at_ + 1);
      const bool zero =
          counts.find_first_not_of('0') == counts.find(',') || counts.find_first_not_of('0') == counts.npos;
      part.nullable |= zero;
      if (!zero && counts != "1" && !counts.starts_with("1,")) part.one_newline = false;
      copy(end - at_ + 1);
      if (!ended() && (pattern_[at_] == '?' || pattern_[at_] == '+')) refuse(1);  // Oniguruma reads these otherwise
    }
    if (!ended() && (pattern_[at_] == '?' || pattern_[at_] == '*' || pattern_[at_] == '+' || pattern_[at_] == '{')) {
      refuse(1);
    }
    if (many) note_neighbours(part.last, part.first);
    return part;
  }

  Part atom() {
    const char c = pattern_[at_];
    if (c == '(') return group();
    if (c == '[') return character_class();
    if (c == '\\') return escape();
    if (std::string_view(".^$*+?{}])").find(c) != std::string_view::npos) refuse(1);
    const size_t bytes = std::max<size_t>(1, utf8_character_bytes(pattern_.substr(at_)));
    const std::string_view literal = pattern_.substr(at_, bytes);
    copy(bytes);
    return of_kinds(is_ascii_letter(c) ? kLetter | kVisible : bytes == 1 ? kinds_of_ascii(c) : kinds_of(literal));
  }

  Part group() {
    const bool looks = next_is("(?=") || next_is("(?!");
    if (looks) {
      copy(3);
      const bool newline = newline_then_letter_, visible = visible_then_newline_;
      const char c = ended() ? ')' : pattern_[at_];
      if (c == '(' || c == ')') refuse(1);
      atom();
      newline_then_letter_ = newline;
      visible_then_newline_ = visible;
      if (!next_is(")")) refuse(1);
      copy(1);
      return {.asserts = true};
    }
    const bool folds = next_is("(?i:");
    if (!folds && !next_is("(?:") && (next_is("(?") || next_is("(*"))) refuse(4);
    const bool outer = folds_;
    folds_ |= folds;
    copy(folds ? 4 : next_is("(?:") ? 3 : 1);
    const Part part = alternatives();
    folds_ = outer;
    if (!next_is(")")) refuse(1);
    copy(1);
    return part;
  }

  // \s, \p{…} and the like; `in_class` says where.
  void copy_escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) refuse(2);
    const char c = pattern_[at_ + 1];
    if (c == 's' || (c == 'S' && !in_class)) {
      out_ += in_class ? kWhiteSpaceClass : white_space_set(/*negated=*/c == 'S');
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      const size_t end = pattern_.find('}', at_);
      if (!next_is(std::string{'\\', c, '{'}) || end == std::string_view::npos || folds_) refuse(3);
      const std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
      for (const char letter : name) {
        if (!is_ascii_letter(letter) && letter != '_') refuse(end + 1 - at_);
      }
      out_ += std::string{'\\', c, '{'} + (name.size() > 2 ? "sc:" : "") + std::string(name) + "}";
      at_ = end + 1;
    } else if (std::string_view("dDrntfv").find(c) != std::string_view::npos ||
               (c > ' ' && c < 0x7F && !is_digit(c) && !is_ascii_letter(c))) {
      if (c == 'v') {  // in PCRE2 a class of vertical space
        out_ += "\\x0B";
        at_ += 2;
      } else {
        copy(2);
      }
    } else {
      refuse(2);
    }
  }

  Part escape() {
    const size_t begin = out_.size();
    const char c = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    copy_escape(/*in_class=*/false);
    if (c == 's') return of_kinds(kNewline);
    if (c == 'S') return of_kinds(kLetter | kVisible);
    return of_kinds(kinds_of(out_.substr(begin)));
  }

  Part character_class() {
    const size_t begin = out_.size();
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]")) refuse(1);
    while (!ended() && pattern_[at_] != ']') {
      if (pattern_[at_] == '[' || next_is("&&")) refuse(2);  // sets within sets
      if (pattern_[at_] == '\\') {
        copy_escape(/*in_class=*/true);
      } else {
        copy(1);
      }
    }
    copy(1);
    return of_kinds(kinds_of(out_.substr(begin)));
  }

  static unsigned kinds_of_ascii(char c) {
    if (c == '\n') return kNewline;
    return c == ' ' || (c >= '\t' && c <= '\r') ? 0u : unsigned{kVisible};
  }

  // The kinds of characters that a one-character pattern of PCRE2 matches, found by trying.
  unsigned kinds_of(std::string_view one) {
    if (characters_.empty()) characters_ = all_characters();
    const std::string atom = (folds_ ? "(?i:" : "(?:") + std::string(one) + ")";
    const auto holds = [&](const std::string& look, std::string_view text) {
      const Regex regex(look + atom, where_);
      Span ignored;
      return Matcher(regex).find(text, 0, ignored);
    };
    unsigned kinds = 0;
    if (holds("", "\n")) kinds |= kNewline;
    if (holds("(?=\\p{L})", characters_)) kinds |= kLetter;
    if ((kinds & kLetter) || holds("(?=" + white_space_set(true) + ")", characters_)) kinds |= kVisible;
    return kinds;
  }

  static Part of_kinds(unsigned kinds) {
    return {.nullable = false, .first = kinds, .last = kinds, .one_newline = (kinds & kNewline) != 0};
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  bool folds_ = false;  // inside (?i:
  bool newline_then_letter_ = false;
  bool visible_then_newline_ = false;
  std::string out_;
  std::string characters_;
  Pattern result_;
};

}  // namespace

Pattern translate_pattern(std::string_view pattern, const std::string& where) {
  Pattern result = Translator(pattern, where).run();
  if (Regex(result.pcre, where).may_match_empty()) {
    throw ConfigError({.what = "a regular expression that matches nothing at all isn't built",
                       .found = "'" + std::string(pattern) + "'",
                       .where = where});
  }
  return result;
}

}  // namespace trireme::bpe
