#include "tests/unit/bpe_mixture.h"

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/data/utf8.h"
#include "tests/unit/data_testing.h"

namespace trireme::testing {

namespace {

constexpr std::pair<uint32_t, uint32_t> kRanges[] = {
    {0x20, 0x7E},     {0xA0, 0x24F},      {0x300, 0x34E},     {0x391, 0x3A1},     {0x400, 0x52F},     {0x5D0, 0x5EA},
    {0x621, 0x652},   {0x905, 0x94D},     {0xE01, 0xE3A},     {0xF71, 0xF84},     {0x1100, 0x11FF},   {0x1B05, 0x1B3C},
    {0x1E00, 0x1EFF}, {0x1F00, 0x1F15},   {0x2000, 0x2064},   {0x20A0, 0x20BF},   {0x2100, 0x218B},   {0x3041, 0x3096},
    {0x3099, 0x30FF}, {0x4E00, 0x9FEF},   {0xAC00, 0xD7A3},   {0xF900, 0xFA6D},   {0xFB1D, 0xFB36},   {0xFE00, 0xFE0F},
    {0xFF01, 0xFFBE}, {0x1D15E, 0x1D164}, {0x1F300, 0x1F6D4}, {0x20000, 0x2A6D6}, {0x2F800, 0x2FA1D},
};
constexpr const char* kSpaces[] = {" ",      " ",      " ",      "\n",     "\n",     "\t",     "\r\n", "\r",
                                   "\u00A0", "\u3000", "\u2028", "\u0085", "\u200B", "\u180E", "\v"};
constexpr const char* kSeparators[] = {" ",  " ",  " ",    " ",   "\n",   "\n", "\n\n",
                                       "  ", "\t", "\r\n", " \n", "\n  ", "",   ".\n"};
constexpr const char* kTokens[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|begin|>", "<left>",       "<right>", "<both>", "word",     "Wort",
    "caf\u00e9",     "cafe\u0301",      "<|begin",   "\u0301<left>", "xword",   "word.",  "word word"};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  size_t below(size_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>(state_ >> 33) % n;
  }
  template <class T, size_t N>
  const T& of(const T (&list)[N]) {
    return list[below(N)];
  }

 private:
  uint64_t state_;
};

std::vector<std::string> golden_lines() {
  std::vector<std::string> lines;
  const std::string text = read_file(bpe_golden("lines.txt"));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace

std::string bpe_golden(const std::string& name) {
  return std::string(TRIREME_SOURCE_DIR) + "/tests/oracle/golden/bpe/" + name;
}

std::string bpe_mixture(size_t min_bytes, unsigned seed) {
  const std::vector<std::string> lines = golden_lines();
  Random random(seed);
  std::string out;
  while (out.size() < min_bytes) {
    const size_t kind = random.below(100);
    if (kind < 62) {
      out += lines[random.below(lines.size())];
      out += random.of(kSeparators);
    } else if (kind < 72) {
      for (size_t n = 1 + random.below(8); n > 0; --n) {
        const auto [first, last] = random.of(kRanges);
        append_utf8(first + static_cast<uint32_t>(random.below(last - first + 1)), out);
      }
    } else if (kind < 80) {
      for (size_t n = 1 + random.below(6); n > 0; --n) out += random.of(kSpaces);
    } else if (kind < 84) {
      out += std::to_string(random.below(1000000000));
    } else if (kind < 88) {
      for (size_t n = 1 + random.below(6); n > 0; --n) out.push_back(static_cast<char>(128 + random.below(128)));
    } else if (kind < 92) {
      out += random.of(kTokens);
    } else {
      const std::string& line = lines[random.below(lines.size())];
      const size_t begin = random.below(line.size() + 1);
      out += line.substr(begin, 1 + random.below(20));
    }
  }
  return out;
}

}  // namespace trireme::testing
