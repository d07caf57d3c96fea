#include "core/error.h"

#include <algorithm>
#include <numeric>

namespace trireme {

std::string ErrorText::str() const {
  std::string out = what;
  if (!expected.empty() || !found.empty()) {
    out += " (";
    if (!expected.empty()) out += "expected " + expected;
    if (!expected.empty() && !found.empty()) out += ", ";
    if (!found.empty()) out += "found " + found;
    out += ")";
  }
  if (!where.empty()) out += " at " + where;
  if (!hint.empty()) out += "; try " + hint;
  return out;
}

void fail_check(const char* condition, const char* file, int line, std::string_view note) {
  throw BugError({.what = "internal check failed: " + std::string(condition) +
                          (note.empty() ? "" : " (" + std::string(note) + ")"),
                  .where = std::string(file) + ":" + std::to_string(line),
                  .hint = "reporting this with the command and configuration that led here"});
}

namespace {

// Levenshtein distance by two rows.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> previous(b.size() + 1);
  std::vector<size_t> current(b.size() + 1);
  std::iota(previous.begin(), previous.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, substitution});
    }
    std::swap(previous, current);
  }
  return previous[b.size()];
}

}  // namespace

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 2) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace trireme
