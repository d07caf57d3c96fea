// Text to token ids and back.
//
// Thread safety: tokenizers are const after construction; any number of threads may use one.
// Errors: ConfigError for a tokenizer that isn't built, DataError for a model file that can't be read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string name() const = 0;
  virtual int64_t vocab_size() const = 0;
  // Appends the ids of the text. Broken UTF-8 is replaced or kept, never an error. No special ids are added.
  virtual void encode(std::string_view text, std::vector<int32_t>& out) const = 0;
  // Ids outside the vocabulary become U+FFFD.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // The id that ends a document, where the vocabulary has one.
  virtual std::optional<int32_t> end_of_document() const = 0;
};

// `spec` is "bytes" (256 ids, one per byte), the path of a SentencePiece .model, or a directory that holds a
// tokenizer.model. A tokenizer.json is refused: byte-pair encoding isn't built yet.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec);

}  // namespace trireme
