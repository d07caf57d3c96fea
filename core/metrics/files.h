// Small files that must never be seen half-written. Failures are MachineError with the path and the system's reason.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace trireme {

// A reader sees the old text or the new one: written beside it, then renamed over it.
void replace_file(const std::filesystem::path& path, std::string_view text);

// A file that only grows, by whole pieces: each append is one write at the end, and is taken back if it fails
// half-way. Several processes may append to the same file. Not thread-safe.
class AppendFile {
 public:
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view piece);

 private:
  std::filesystem::path path_;
  int fd_;
};

// Throws MachineError: "WHAT: No space left on device (errno 28) at PATH".
[[noreturn]] void fail_file(const std::string& what, const std::filesystem::path& path, int error_number);

}  // namespace trireme
