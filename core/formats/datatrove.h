// datatrove's token file, which nanotron reads too.
//
//   X.ds           u16 or u32 tokens, no header
//   X.ds.index     u64 ends of the documents, in tokens
//   X.ds.metadata  text: "tokenizer|bytes per token", then the number of tokens
//
// Without the metadata file the width follows from the last end and the length of X.ds.
#pragma once

#include <cstdint>
#include <string>

#include "core/formats/token_source.h"

namespace trireme {

class DatatroveSource final : public TokenSource {
 public:
  // `path` is X.ds.
  explicit DatatroveSource(const std::string& path);

  std::string format() const override { return "datatrove"; }
  int64_t num_documents() const override { return num_documents_; }
  int64_t document_begin(int64_t document) const override {
    return document == 0 ? 0 : index_.at<int64_t>(8 * (document - 1));
  }

 private:
  struct Layout {
    MappedFile tokens;
    MappedFile index;
    TokenDType dtype;
    int64_t num_tokens;
  };
  static Layout read_layout(const std::string& path);
  explicit DatatroveSource(Layout layout);

  MappedFile index_;
  int64_t num_documents_;
};

}  // namespace trireme
