// Tokens of a corpus on disk, whatever the format: one long row of ids, cut into documents.
//
//   format     files                              reader
//   megatron   P.bin + P.idx                      core/formats/megatron.h
//   llm.c      P.bin (1024-byte header)           core/formats/llmc.h
//   datatrove  P.ds + P.ds.index [+ .metadata]    core/formats/datatrove.h
//
// Files are memory-mapped. Opening checks that the files agree with each other, in time proportional to the
// number of documents; ids are checked as they are read.
// Thread safety: all methods are const and may be called by any number of threads.
// Errors: DataError that names the file, what was expected and what was found.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/formats/mapped_file.h"

namespace trireme {

enum class TokenDType : uint8_t { u8, i8, u16, i16, u32, i32, i64 };

int64_t token_dtype_bytes(TokenDType dtype);
std::string token_dtype_name(TokenDType dtype);  // "u16", …

// The narrowest type that Megatron's tools would choose: u16 for vocabularies under 65,500, else i32.
TokenDType token_dtype_for_vocabulary(int64_t vocab_size);

// The largest vocabulary that int32 ids allow; as `vocab_size` of `read` it checks only that.
constexpr int64_t kMaxVocabulary = int64_t{1} << 31;

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  TokenSource(const TokenSource&) = delete;
  TokenSource& operator=(const TokenSource&) = delete;

  virtual std::string format() const = 0;
  virtual int64_t num_documents() const = 0;
  // The first token of a document; of `num_documents()`: the number of tokens. Documents may be empty.
  virtual int64_t document_begin(int64_t document) const = 0;

  const std::string& path() const { return tokens_.path(); }  // the file that holds the tokens
  TokenDType dtype() const { return dtype_; }
  int64_t num_tokens() const { return num_tokens_; }

  // The document that holds a token, by binary search. REQUIRES: 0 <= token < num_tokens().
  int64_t document_at(int64_t token) const;

  // Reads tokens [begin, begin + out.size()). An id outside [0, vocab_size) is a DataError that names the
  // file and the token's offset. REQUIRES: the range lies in the file.
  void read(int64_t begin, std::span<int32_t> out, int64_t vocab_size = kMaxVocabulary) const;

 protected:
  // `num_tokens` of `dtype` from byte `data_offset` of `tokens` on. Throws DataError when the file's length
  // says otherwise, or when there is no token.
  TokenSource(MappedFile tokens, TokenDType dtype, int64_t data_offset, int64_t num_tokens);

 private:
  MappedFile tokens_;
  TokenDType dtype_;
  int64_t data_offset_;
  int64_t num_tokens_;
};

// Opens what is found at `path`: a prefix without extension, or the name of any one file of the format.
std::unique_ptr<TokenSource> open_token_source(const std::string& path);

}  // namespace trireme
