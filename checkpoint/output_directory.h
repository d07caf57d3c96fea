// A directory that appears whole or not at all: it is filled under a temporary name beside its place and renamed by
// `commit`.
//
// Thread safety: one thread.
// Errors: ConfigError where something stands at the place already; MachineError where the system refuses.
#pragma once

#include <string>
#include <string_view>

#include "core/formats/file_system.h"

namespace trireme {

class OutputDirectory {
 public:
  // `path` is absent or an empty directory. What an interrupted earlier attempt left beside it is removed.
  OutputDirectory(FileSystem& files, const std::string& path);
  ~OutputDirectory();  // without `commit`, nothing stays
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  // Where files go until `commit`.
  const std::string& path() const { return temporary_; }
  FileSystem& files() const { return files_; }
  // A small file, brought to the disk.
  void write_text(const std::string& name, std::string_view text);
  void commit();

 private:
  FileSystem& files_;
  std::string path_;
  std::string temporary_;
  bool committed_ = false;
};

}  // namespace trireme
