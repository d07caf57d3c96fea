#include "core/data/text_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace trireme {

namespace {

constexpr size_t kReadBytes = size_t{1} << 18;
constexpr size_t kPieceBytes = size_t{1} << 20;     // cut at the first line end after this
constexpr size_t kMaxPieceBytes = size_t{1} << 21;  // or here, between two characters

bool is_gzip(const std::string& path) { return path.ends_with(".gz"); }

bool is_json_lines(const std::string& path) {
  const std::string plain = is_gzip(path) ? path.substr(0, path.size() - 3) : path;
  return plain.ends_with(".jsonl") || plain.ends_with(".ndjson");
}

// The last place at or before `end` where a UTF-8 character begins; `end` itself when there is none near.
size_t character_begin(const std::string& text, size_t end) {
  for (size_t back = 0; back < 4 && back < end; ++back) {
    if ((static_cast<unsigned char>(text[end - back]) & 0xC0u) != 0x80u) return end - back;
  }
  return end;
}

}  // namespace

// zlib reads plain files through the same calls.
struct TextReader::File {
  explicit File(const std::string& file_path) : path(file_path) {
    handle = gzopen(path.c_str(), "rb");
    if (handle == nullptr) {
      throw DataError({.what = "cannot open the file", .found = errno_text(errno), .where = path});
    }
    gzbuffer(handle, kReadBytes);
  }
  ~File() { gzclose_r(handle); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  size_t read(char* out, size_t count) {
    const int got = gzread(handle, out, static_cast<unsigned>(count));
    int code = Z_OK;
    const std::string reason = gzerror(handle, &code);
    if (got >= 0 && is_gzip(path) && gzdirect(handle) != 0) {
      throw DataError({.what = "the file is named .gz and is not gzip", .where = path, .hint = "another name for it"});
    }
    // A file that ends inside the compressed stream reads as its end with Z_BUF_ERROR.
    if (got < 0 || (static_cast<size_t>(got) < count && code == Z_BUF_ERROR)) {
      throw DataError({.what = code == Z_BUF_ERROR ? "the gzip file is truncated" : "cannot read the file",
                       .found = code == Z_ERRNO ? errno_text(errno) : reason,
                       .where = path,
                       .hint = "copying the file again"});
    }
    return static_cast<size_t>(got);
  }

  std::string path;
  gzFile handle;
};

TextReader::TextReader(const std::vector<std::string>& paths, Cut cut) : cut_(std::move(cut)), paths_(paths) {
  for (const std::string& path : paths_) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) throw DataError({.what = "the input file does not exist", .where = path});
    if (std::filesystem::is_directory(status)) {
      throw DataError({.what = "the input is a directory", .where = path, .hint = "the files in it: " + path + "/*"});
    }
    const auto size = std::filesystem::file_size(path, error);
    sizes_.push_back(error ? 0 : static_cast<int64_t>(size));
    total_bytes_ += sizes_.back();
  }
}

TextReader::~TextReader() = default;

int64_t TextReader::consumed_bytes() const {
  return finished_bytes_ + (file_ ? std::max<int64_t>(0, gzoffset(file_->handle)) : 0);
}

bool TextReader::fill() {
  if (begin_ > 0) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  const size_t old = buffer_.size();
  buffer_.resize(old + kReadBytes);
  const size_t got = file_->read(buffer_.data() + old, kReadBytes);
  buffer_.resize(old + got);
  return got > 0;
}

bool TextReader::next(TextPiece& piece) {
  for (;;) {
    if (!file_) {
      if (input_ == paths_.size()) return false;
      file_ = std::make_unique<File>(paths_[input_]);
      buffer_.clear();
      begin_ = 0;
      line_ = 0;
      gave_text_ = false;
    }
    piece.input = input_;
    if (is_json_lines(paths_[input_]) ? next_line(piece) : next_text(piece)) return true;
    file_.reset();
    finished_bytes_ += sizes_[input_];
    ++input_;
  }
}

bool TextReader::next_line(TextPiece& piece) {
  piece.ends_document = true;
  size_t searched = begin_;
  for (;;) {
    size_t end = buffer_.find('\n', searched);
    if (end == std::string::npos) {
      searched = buffer_.size() - begin_;
      const bool more = fill();  // moves begin_ to 0
      if (more) continue;
      if (begin_ == buffer_.size()) return false;
      end = buffer_.size();
    }
    ++line_;
    piece.text.assign(buffer_, begin_, end - begin_);
    piece.line = line_;
    begin_ = std::min(end + 1, buffer_.size());
    if (piece.text.find_first_not_of(" \t\r") != std::string::npos) return true;
    searched = begin_;
  }
}

// `searched`: bytes in which no cut was found before.
size_t TextReader::find_cut(size_t& searched) const {
  const size_t size = buffer_.size() - begin_;
  if (cut_) {
    if (size < std::max(kMaxPieceBytes, 2 * searched)) return 0;
    searched = size;
    return cut_(std::string_view(buffer_).substr(begin_));
  }
  const size_t newline = buffer_.find('\n', begin_ + std::max(kPieceBytes, searched));
  searched = size;
  if (newline != std::string::npos && newline - begin_ < kMaxPieceBytes) return newline + 1 - begin_;
  return size > kMaxPieceBytes ? character_begin(buffer_, begin_ + kMaxPieceBytes) - begin_ : 0;
}

bool TextReader::next_text(TextPiece& piece) {
  piece.line = 0;
  bool ended = false;
  size_t cut = 0;
  size_t searched = 0;
  while (cut == 0 && !ended) {
    const size_t size = buffer_.size() - begin_;
    if (size > kPieceBytes) cut = find_cut(searched);
    // One byte beyond the cut must be seen, to know whether the document ends there.
    if (cut == 0 || cut == size) ended = !fill();
  }
  const size_t size = buffer_.size() - begin_;
  if (cut == 0) cut = size;
  if (cut == 0 && gave_text_) return false;
  gave_text_ = true;
  piece.text.assign(buffer_, begin_, cut);
  piece.ends_document = ended && cut == size;
  begin_ += cut;
  return true;
}

}  // namespace trireme
