// A whole file mapped for reading. Pages come from the disk when they are touched, so that a file of any
// size opens at once and several processes share one copy in memory.
//
// Thread safety: any number of threads may read. The file must not shrink while it is mapped: touching a
// page that no longer exists ends the process with SIGBUS. Our own writers replace files by rename, which
// leaves the mapped one whole.
// Errors: DataError that names the path when the file is missing, unreadable, not a file or of length zero;
// MachineError when the system refuses the mapping.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "core/error.h"

namespace trireme {

static_assert(std::endian::native == std::endian::little, "every file format here is little-endian");

// The text of an errno value, "No space left on device".
std::string errno_text(int error);

bool file_exists(const std::string& path);

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return size_bytes_; }
  const std::byte* data() const { return data_; }

  // REQUIRES: the range lies in the file.
  std::span<const std::byte> bytes(int64_t offset, int64_t count) const {
    TRIREME_CHECK(offset >= 0 && count >= 0 && offset <= size_bytes_ && count <= size_bytes_ - offset);
    return {data_ + offset, static_cast<size_t>(count)};
  }

  // Begins to read these bytes from the disk, as far as they exist. Doesn't wait.
  void prefetch(int64_t offset, int64_t count) const;
  // Waits until they are there, so that touching them costs nothing, where the system can. DataError where the disk
  // doesn't give them or the file has shrunk.
  void populate(int64_t offset, int64_t count) const;

  // The number at byte `offset`, which need not be aligned. REQUIRES: it lies in the file.
  template <class T>
  T at(int64_t offset) const {
    T value;
    std::memcpy(&value, bytes(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }

 private:
  void unmap();
  int advise(int64_t offset, int64_t count, int advice) const;  // 0, or an errno value

  std::string path_;
  const std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

}  // namespace trireme
