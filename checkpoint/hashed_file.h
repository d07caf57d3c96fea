// A file of a checkpoint while it is written: from front to back, in chunks of 4 MiB that are hashed on the way. Bytes that
// come as whole chunks are not copied.
//
// Thread safety: one thread. Errors: MachineError of the FileSystem.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace trireme {

class HashedFile {
 public:
  HashedFile(FileSystem& files, const std::string& path);

  // `hash`: that of the bytes, where it is known already.
  void append(std::span<const std::byte> bytes, std::optional<uint64_t> hash = {});
  // Brings the file to the disk; returns what the manifest says of it.
  StoredFile finish();

 private:
  void flush();
  void write(std::span<const std::byte> chunk, uint64_t hash);

  std::unique_ptr<OutputFile> file_;
  StoredFile stored_;
  std::vector<std::byte> chunk_;  // not written yet
};

}  // namespace trireme
