#include "checkpoint/hashed_file.h"

#include <algorithm>
#include <filesystem>

namespace trireme {

HashedFile::HashedFile(FileSystem& files, const std::string& path) : file_(files.create(path)) {
  stored_.name = std::filesystem::path(path).filename().string();
  chunk_.reserve(static_cast<size_t>(kHashChunkBytes));
}

void HashedFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), static_cast<size_t>(kHashChunkBytes) - chunk_.size());
    chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (static_cast<int64_t>(chunk_.size()) == kHashChunkBytes) flush();
  }
}

void HashedFile::flush() {
  if (chunk_.empty()) return;
  stored_.chunk_hashes.push_back(hash_bytes(chunk_.data(), chunk_.size()));
  file_->write_at(stored_.bytes, chunk_);
  stored_.bytes += static_cast<int64_t>(chunk_.size());
  chunk_.clear();
}

StoredFile HashedFile::finish() {
  flush();
  file_->sync();
  file_->close();
  return stored_;
}

}  // namespace trireme
