// The text of ids that come one by one, as far as it can be shown: a character that is spread over ids is held back until
// it is whole, and what never becomes a character is shown as U+FFFD.
//
// Thread safety: none. The tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/data/tokenizer.h"

namespace trireme {

class GrowingText {
 public:
  explicit GrowingText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // What the id adds to the text that was given out; whole characters, perhaps none.
  std::string add(int32_t id);
  // What was held back.
  std::string finish();

 private:
  std::string give(const std::string& text, size_t end);

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t given_ = 0;  // bytes of the text
};

}  // namespace trireme
