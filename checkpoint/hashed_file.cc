#include "checkpoint/hashed_file.h"

#include <algorithm>
#include <filesystem>

namespace trireme {

HashedFile::HashedFile(FileSystem& files, const std::string& path) : file_(files.create(path)) {
  stored_.name = std::filesystem::path(path).filename().string();
}

void HashedFile::append(std::span<const std::byte> bytes, std::optional<uint64_t> hash) {
  if (hash && chunk_.empty() && std::ssize(bytes) == kHashChunkBytes) return write(bytes, *hash);
  while (!bytes.empty()) {
    if (chunk_.empty() && std::ssize(bytes) >= kHashChunkBytes) {
      const auto chunk = bytes.first(static_cast<size_t>(kHashChunkBytes));
      write(chunk, hash_bytes(chunk.data(), chunk.size()));
      bytes = bytes.subspan(static_cast<size_t>(kHashChunkBytes));
      continue;
    }
    const size_t count = std::min(bytes.size(), static_cast<size_t>(kHashChunkBytes) - chunk_.size());
    chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (static_cast<int64_t>(chunk_.size()) == kHashChunkBytes) flush();
  }
}

void HashedFile::flush() {
  if (!chunk_.empty()) write(chunk_, hash_bytes(chunk_.data(), chunk_.size()));
  chunk_.clear();
}

void HashedFile::write(std::span<const std::byte> chunk, uint64_t hash) {
  stored_.chunk_hashes.push_back(hash);
  file_->write_at(stored_.bytes, chunk);
  stored_.bytes += std::ssize(chunk);
}

StoredFile HashedFile::finish() {
  flush();
  file_->sync();
  file_->close();
  return stored_;
}

}  // namespace trireme
