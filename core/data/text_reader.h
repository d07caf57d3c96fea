// Reads documents from text files and JSON Lines, plain or gzipped, as a stream of pieces.
//
// A .jsonl (or .ndjson) line is one document and one piece. Any other file is one document; it is cut into
// pieces of about 1 MiB after a line end, so that a file of any size needs bounded memory and several
// threads can encode it, or where the caller says. Bytes are passed on as they are.
// Thread safety: none; one thread reads.
// Errors: DataError that names the file: missing, not gzip, truncated or damaged gzip.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
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
  // How many bytes of a text may be given out as a piece; 0: none yet, ask again with more.
  using Cut = std::function<size_t(std::string_view)>;

  // Checks at once that all files exist. With `cut`, long texts are cut only where it says; a text that it doesn't
  // cut is read whole, however long.
  explicit TextReader(const std::vector<std::string>& paths, Cut cut = {});
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
  size_t find_cut(size_t& searched) const;  // of a text beyond 1 MiB; 0: none yet

  Cut cut_;
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
