#include "core/formats/atomic_file.h"

#include <filesystem>

#include "core/error.h"

namespace trireme {

namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path, FileSystem& files)
    : path_(path), temporary_(path + ".tmp"), files_(files) {
  try {
    files_.make_directories(parent_of(path));
  } catch (const MachineError& error) {
    throw MachineError({.what = std::string("the file has no directory: ") + error.what(), .where = path});
  }
  file_ = files_.create(temporary_);
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (committed_) return;
  file_.reset();
  try {
    files_.remove(temporary_);
  } catch (...) {  // The next writer of this file cuts it to nothing.
  }
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    write_at(offset_, bytes);
    offset_ += static_cast<int64_t>(bytes.size());
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void AtomicFile::flush() {
  write_at(offset_, buffer_);
  offset_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void AtomicFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  TRIREME_CHECK(file_ != nullptr, "a file written after its commit");
  if (!bytes.empty()) file_->write_at(offset, bytes);
}

void AtomicFile::commit() {
  TRIREME_CHECK(file_ != nullptr, "a file committed twice");
  flush();
  file_->sync();
  file_->close();
  file_.reset();
  files_.rename(temporary_, path_);
  committed_ = true;
  // The rename itself lasts only when the directory has reached the disk.
  files_.sync_directory(parent_of(path_));
}

}  // namespace trireme
