// Text to token ids and back.
//
// Thread safety: tokenizers are const after construction; any number of threads may use one.
// Errors: ConfigError for a tokenizer that asks for what isn't built, DataError for a model file that can't be read.
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
  // The bytes that the ids stand for, special ones included; ids outside the vocabulary become U+FFFD. They may be
  // broken UTF-8: an id of a byte tokenizer or of byte-level BPE may hold a part of a character.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // The id that ends a document, where the vocabulary has one.
  virtual std::optional<int32_t> end_of_document() const = 0;

  // For texts too long to be encoded at once. True: texts are cut only where last_cut() says, and the ids of the parts
  // are those of the whole. False: cut anywhere between two characters, best after a line end; bytes don't notice, a
  // SentencePiece model may place one more space piece.
  virtual bool knows_cuts() const { return false; }
  // The last place where `text`, which begins a document or follows such a cut, may be cut, whatever follows it; 0 when
  // there is none.
  virtual size_t last_cut(std::string_view text) const { return text.size(); }
};

// `spec` is "bytes" (256 ids, one per byte), the path of a SentencePiece .model or of a tokenizer.json (byte-level BPE:
// bpe/README.md), or a directory that holds a tokenizer.model or, without one, a tokenizer.json.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec);

}  // namespace trireme
