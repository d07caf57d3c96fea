// Reads documents from text files and JSON Lines, plain or gzipped, as a stream of pieces.
//
// A .jsonl (or .ndjson) line is one document and one piece. Any other file is one document; it is cut into
// pieces of about 1 MiB after a line end, so that a file of any size needs bounded memory and several
// threads can encode it. Bytes are passed on as they are.
// Thread safety: none; one thread reads.
// Errors: DataError that names the file: missing, not gzip, truncated or damaged gzip.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace trireme {

struct TextPiece {
  std::string text;
  size_t input = 0;  // index of the file
  int64_t line = 0;  // of a JSON Lines file, from 1; 0 for a text file
  bool ends_document = true;
};

class TextReader {
 public:
  // Checks at once that all files exist.
  explicit TextReader(const std::vector<std::string>& paths);
  ~TextReader();

  // False at the end of the last file. Blank lines of JSON Lines are skipped; a text file without text gives
  // one empty piece.
  bool next(TextPiece& piece);

  // Bytes of the files as they lie on disk, for progress.
  int64_t total_bytes() const { return total_bytes_; }
  int64_t consumed_bytes() const;

 private:
  struct File;
  bool fill();  // more bytes into buffer_; false at the end of the file
  bool next_line(TextPiece& piece);
  bool next_text(TextPiece& piece);

  std::vector<std::string> paths_;
  std::vector<int64_t> sizes_;
  int64_t total_bytes_ = 0;
  int64_t finished_bytes_ = 0;
  size_t input_ = 0;
  std::unique_ptr<File> file_;
  std::string buffer_;  // bytes read and not yet given out, from begin_ on
  size_t begin_ = 0;
  int64_t line_ = 0;
  bool gave_text_ = false;
};

}  // namespace trireme
