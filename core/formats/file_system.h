// Where files are written. Everything that Trireme leaves on a disk and must not lose passes through this interface, so
// that a test can fail, delay or cut any single write (tests/faulty_files.h).
//
// Reading goes through MappedFile.
// Thread safety: a FileSystem may be used by any number of threads; so may `write_at` of one file, on ranges that don't
// overlap.
// Errors: MachineError that names the path, the system's reason (disk full, no permission, …) and what to do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace trireme {

class OutputFile {
 public:
  virtual ~OutputFile() = default;  // closes; what was written stays
  // All of the bytes, or an error.
  virtual void write_at(int64_t offset, std::span<const std::byte> bytes) = 0;
  // Brings everything written to the disk.
  virtual void sync() = 0;
  // As the destructor, but says when the system refuses. No calls after it.
  virtual void close() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // A new file, or an old one cut to nothing. Its directory exists.
  virtual std::unique_ptr<OutputFile> create(const std::string& path) = 0;
  // With all parents; fine when it is there.
  virtual void make_directories(const std::string& path) = 0;
  // Replaces a file; a directory only where it is empty or absent.
  virtual void rename(const std::string& from, const std::string& to) = 0;
  // A file, or a directory with all that is in it; fine when it isn't there.
  virtual void remove(const std::string& path) = 0;
  // Names in the directory (new, renamed, removed) survive a crash of the machine. Some file systems can't; no error.
  virtual void sync_directory(const std::string& path) = 0;
  // Bytes that this user may still write where `path`, or its nearest existing parent, lies.
  virtual int64_t free_bytes(const std::string& path) = 0;
};

// The system's own.
FileSystem& local_files();

}  // namespace trireme
