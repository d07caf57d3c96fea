#include "core/data/bpe/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "core/error.h"

namespace trireme::bpe {

namespace {

constexpr size_t kJitStackBytes = size_t{256} << 10;
constexpr size_t kMaxJitStackBytes = size_t{64} << 20;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }
void Matcher::Free::operator()(pcre2_real_match_data_8* data) const { pcre2_match_data_free(data); }
void Matcher::Free::operator()(pcre2_real_match_context_8* context) const { pcre2_match_context_free(context); }
void Matcher::Free::operator()(pcre2_real_jit_stack_8* stack) const { pcre2_jit_stack_free(stack); }

Regex::Regex(const std::string& pattern, const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(units(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error,
                            &offset, nullptr));
  if (!code_) {
    throw ConfigError({.what = "the regular expression can't be used",
                       .found = message_of(error) + " at byte " + std::to_string(offset) + " of '" + pattern + "'",
                       .where = where});
  }
  // Where the system forbids code made at run time, matches are interpreted: slower, the same.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

bool Regex::may_match_empty() const {
  uint32_t empty = 0;
  pcre2_pattern_info(code_.get(), PCRE2_INFO_MATCHEMPTY, &empty);
  return empty != 0;
}

Matcher::Matcher(const Regex& regex)
    : regex_(&regex), data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  if (!data_ || !context_) throw MachineError({.what = "out of memory"});
  pcre2_set_match_limit(context_.get(), UINT32_MAX);  // a run of white space may be as long as the text
}

bool Matcher::find(std::string_view text, size_t from, Span& match) {
  const auto run = [&] {
    return pcre2_match(regex_->code_.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK, data_.get(),
                       context_.get());
  };
  int found = run();
  if (found == PCRE2_ERROR_JIT_STACKLIMIT && !stack_) {  // the 32 KiB that it has without one are too few
    stack_.reset(pcre2_jit_stack_create(kJitStackBytes, kMaxJitStackBytes, nullptr));
    if (!stack_) throw MachineError({.what = "out of memory"});
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
    found = run();
  }
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    throw MachineError({.what = "a regular expression can't be matched", .found = message_of(found)});
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data_.get());
  match = {ends[0], ends[1]};
  return true;
}

}  // namespace trireme::bpe
