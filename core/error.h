// Typed errors with exit codes. Everything a user can cause (configuration, data, machine, numbers) is
// thrown as an `Error` that says what, where, what was expected, what was found, and what to do;
// `launcher` prints it once and exits with its code. TRIREME_CHECK is for our own bugs only.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// The process exit codes (README.md, "Exit codes").
enum class ExitCode : int {
  ok = 0,
  bug = 1,         // a bug of ours
  config = 2,      // command line or configuration
  data = 3,        // data or checkpoint that can't be used
  machine = 4,     // device, memory, disk, network, missing library
  numbers = 5,     // NaN, Inf, divergence between replicas
  peer = 6,        // another rank failed or hangs
  difference = 7,  // a comparison command found a difference
};

// The parts of a message; empty ones are left out:
//   WHAT (expected EXPECTED, found FOUND) at WHERE; try HINT
struct ErrorText {
  std::string what;
  std::string expected = {};
  std::string found = {};
  std::string where = {};
  std::string hint = {};

  std::string str() const;
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const ErrorText& text) : std::runtime_error(text.str()), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

struct ConfigError : Error {
  explicit ConfigError(const ErrorText& text) : Error(ExitCode::config, text) {}
};
struct DataError : Error {
  explicit DataError(const ErrorText& text) : Error(ExitCode::data, text) {}
};
struct MachineError : Error {
  explicit MachineError(const ErrorText& text) : Error(ExitCode::machine, text) {}
};
struct NumbersError : Error {
  explicit NumbersError(const ErrorText& text) : Error(ExitCode::numbers, text) {}
};
struct PeerError : Error {
  explicit PeerError(const ErrorText& text) : Error(ExitCode::peer, text) {}
};
struct BugError : Error {
  explicit BugError(const ErrorText& text) : Error(ExitCode::bug, text) {}
};

[[noreturn]] void fail_check(const char* condition, const char* file, int line, std::string_view note);

// The member of `candidates` nearest to `word` by edit distance; empty when none is near enough to be meant.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace trireme

// Asserts an invariant of ours, in every build. The optional second argument is a note for the message.
#define TRIREME_CHECK(condition, ...)                                                         \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] {                                                          \
      ::trireme::fail_check(#condition, __FILE__, __LINE__, ::std::string_view{__VA_ARGS__}); \
    }                                                                                         \
  } while (false)
