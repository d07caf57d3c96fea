// 5 MB of text in many scripts, code, white space, emoji and broken UTF-8, mixed from
// tests/oracle/golden/bpe/lines.txt by the same small generator as in tests/oracle/make_tokenizers.py.
#pragma once

#include <cstddef>
#include <string>

namespace trireme::testing {

std::string bpe_golden(const std::string& name);  // a path below tests/oracle/golden/bpe

std::string bpe_mixture(size_t min_bytes, unsigned seed);

}  // namespace trireme::testing
