// llm.c's token file: int32[256] header, then the tokens.
//
//   GPT-2:   h[0] = 20240520, h[1] = 1, h[2] = number of tokens, u16 tokens
//   Llama 3: h[0] = 20240801, h[1] = 7, h[2] = number of tokens, u32 tokens
//
// The format knows no documents: the file is one.
#pragma once

#include <cstdint>
#include <string>

#include "core/formats/token_source.h"

namespace trireme {

class LlmcSource final : public TokenSource {
 public:
  explicit LlmcSource(const std::string& path);
  // Whether the file begins with one of the two magic numbers. DataError when it is missing or empty.
  static bool recognizes(const std::string& path);

  std::string format() const override { return "llm.c"; }
  int64_t num_documents() const override { return 1; }
  int64_t document_begin(int64_t document) const override { return document == 0 ? 0 : num_tokens(); }

 private:
  struct Header {
    TokenDType dtype;
    int64_t num_tokens;
  };
  static Header read_header(const MappedFile& file);
  LlmcSource(MappedFile file, Header header);
};

}  // namespace trireme
