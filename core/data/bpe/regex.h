// A PCRE2 pattern, compiled once (UTF-8, Unicode properties, just-in-time where the machine allows it).
//
// Thread safety: a Regex is const; a Matcher belongs to one thread at a time and must not outlive its Regex.
// Errors: ConfigError for a pattern that PCRE2 doesn't take; MachineError when a match runs out of memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace trireme::bpe {

struct Span {
  size_t begin = 0;
  size_t end = 0;
};

class Regex {
 public:
  // `pattern` is PCRE2's syntax; `where` names it in errors.
  Regex(const std::string& pattern, const std::string& where);
  bool may_match_empty() const;

 private:
  friend class Matcher;
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

// What a thread needs to run a Regex.
class Matcher {
 public:
  explicit Matcher(const Regex& regex);

  // The first match that begins at `from` or later. REQUIRES: `text` is UTF-8.
  bool find(std::string_view text, size_t from, Span& match);

 private:
  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_jit_stack_8* stack) const;
  };
  const Regex* regex_;
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  std::unique_ptr<pcre2_real_jit_stack_8, Free> stack_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
};

}  // namespace trireme::bpe
