// Megatron-LM's indexed data set: P.bin holds raw tokens, P.idx where sequences and documents lie in it.
//
//   P.idx: magic "MMIDIDX\0\0", u64 version 1, u8 dtype, u64 S sequences, u64 D entries of the document array,
//          i32 length[S] (tokens), i64 offset[S] (bytes into .bin), i64 document[D] (first sequence of each
//          document; the last entry is S), and for multimodal data i8 mode[S]
//
// We require that sequences follow each other without gaps, as every writer makes them, so that a window of
// tokens may run across documents.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/formats/atomic_file.h"
#include "core/formats/token_source.h"

namespace trireme {

class MegatronSource final : public TokenSource {
 public:
  explicit MegatronSource(const std::string& prefix);

  std::string format() const override { return "megatron"; }
  int64_t num_documents() const override { return num_documents_; }
  int64_t document_begin(int64_t document) const override;

 private:
  struct Index;
  explicit MegatronSource(Index index);
  static Index read_index(const std::string& prefix);

  MappedFile index_;
  int64_t num_sequences_;
  int64_t num_documents_;
};

// Writes P.bin and P.idx. Both appear by rename in `finish`; before that, or after an error, what was there
// stays. Memory: 12 bytes per document.
class MegatronWriter {
 public:
  // REQUIRES: dtype is u8, u16, i32 or i64.
  MegatronWriter(const std::string& prefix, TokenDType dtype);

  // Adds tokens to the current document. REQUIRES: ids fit the dtype.
  void append(std::span<const int32_t> tokens);
  void end_document();
  void finish();

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return static_cast<int64_t>(document_ends_.size()); }

 private:
  void end_sequence();

  std::string prefix_;
  TokenDType dtype_;
  AtomicFile tokens_;
  std::vector<int32_t> lengths_;        // of each sequence
  std::vector<int64_t> document_ends_;  // in sequences
  int64_t num_tokens_ = 0;
  int64_t open_tokens_ = 0;  // of the sequence that is being written
  std::vector<std::byte> scratch_;
};

}  // namespace trireme
