// A file that appears whole or not at all: it is written under a temporary name beside its place and renamed
// there by `commit`, after its bytes have reached the disk. A crash, an error or a destructor without
// `commit` leaves what stood at the path before. (Where the last flush, that of the directory, is what fails, `commit`
// throws and the new file stands there, whole.)
//
// Thread safety: `write_at` may be called by several threads on ranges that don't overlap; the rest by one.
// Errors: MachineError that names the path and the system's reason (disk full, no permission, …).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/formats/file_system.h"

namespace trireme {

class AtomicFile {
 public:
  // Creates missing parent directories and the temporary file, PATH.tmp.
  explicit AtomicFile(const std::string& path, FileSystem& files = local_files());
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  // Bytes appended so far.
  int64_t size_bytes() const { return offset_ + static_cast<int64_t>(buffer_.size()); }

  // Appends through a buffer.
  void append(std::span<const std::byte> bytes);
  template <class T>
  void append_value(const T& value) {
    append(std::as_bytes(std::span<const T, 1>(&value, 1)));
  }

  // Writes at a place of its own, without the buffer. Don't mix with `append` on one range.
  void write_at(int64_t offset, std::span<const std::byte> bytes);

  // Flushes to the disk and puts the file in its place. No calls after it, whether it succeeds or throws.
  void commit();

 private:
  void flush();

  std::string path_;
  std::string temporary_;
  FileSystem& files_;
  std::unique_ptr<OutputFile> file_;
  bool committed_ = false;  // the temporary name is gone
  int64_t offset_ = 0;      // where the buffer will go
  std::vector<std::byte> buffer_;
};

}  // namespace trireme
