#include "core/formats/file_system.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <mutex>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

// Linux writes at most about 2 GiB in one call.
constexpr size_t kMaxWriteBytes = size_t{1} << 30;

[[noreturn]] void fail(const std::string& what, const std::string& path, int error) {
  std::string hint;
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) hint = "freeing space there, or another place";
  if (error == EACCES || error == EPERM || error == EROFS) hint = "a directory that you may write to";
  if (error == EIO) hint = "another disk; the system's log says what this one has";
  throw MachineError({.what = what, .found = errno_text(error), .where = path, .hint = hint});
}

// Blocks of this size, at such places in memory and in the file, go to the disk without passing through the system's cache,
// where it allows that: processor time that training wants, and memory that readers of other files want.
constexpr size_t kDirectAlignment = 4096;
constexpr size_t kLeastDirectBytes = size_t{1} << 20;

class LocalFile : public OutputFile {
 public:
  explicit LocalFile(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail("cannot create the file", path_, errno);
  }
  ~LocalFile() override {
    if (fd_ >= 0) ::close(fd_);
    if (direct_fd_ >= 0) ::close(direct_fd_);
  }

  void write_at(int64_t offset, std::span<const std::byte> bytes) override {
    TRIREME_CHECK(fd_ >= 0, "a write to a closed file");
    while (!bytes.empty()) {
      const int direct = is_aligned(offset, bytes) ? direct_fd() : -1;
      const int fd = direct >= 0 ? direct : fd_;
      const ssize_t written = ::pwrite(fd, bytes.data(), std::min(bytes.size(), kMaxWriteBytes), offset);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0 && errno == EINVAL && fd == direct) {
        allows_direct_ = false;
        continue;
      }
      if (written <= 0) fail("cannot write the file", path_, written < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<size_t>(written));
      offset += written;
    }
  }

  void sync() override {
    TRIREME_CHECK(fd_ >= 0, "a flush of a closed file");
    while (::fsync(fd_) != 0) {
      if (errno != EINTR) fail("cannot bring the file to the disk", path_, errno);
    }
  }

  void close() override {
    TRIREME_CHECK(fd_ >= 0, "a file closed twice");
    const int fd = fd_;
    fd_ = -1;
    // The descriptor is gone even when a signal interrupts.
    if (::close(fd) != 0 && errno != EINTR) fail("cannot close the file", path_, errno);
  }

 private:
  static bool is_aligned(int64_t offset, std::span<const std::byte> bytes) {
    const auto together = reinterpret_cast<uintptr_t>(bytes.data()) | static_cast<uintptr_t>(offset) | bytes.size();
    return bytes.size() >= kLeastDirectBytes && together % kDirectAlignment == 0;
  }

  // -1 where the file system doesn't allow it.
  int direct_fd() {
    std::call_once(direct_opened_, [this] { direct_fd_ = ::open(path_.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC); });
    return allows_direct_ ? direct_fd_ : -1;
  }

  std::string path_;
  int fd_;
  std::once_flag direct_opened_;
  std::atomic<bool> allows_direct_ = true;
  int direct_fd_ = -1;
};

class LocalFiles : public FileSystem {
 public:
  std::unique_ptr<OutputFile> create(const std::string& path) override { return std::make_unique<LocalFile>(path); }

  void make_directories(const std::string& path) override {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) fail("cannot make the directory", path, error.value());
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) fail("cannot rename " + from + " into its place", to, errno);
  }

  void remove(const std::string& path) override {
    std::error_code error;
    fs::remove_all(path, error);
    if (error && error.value() != ENOENT) fail("cannot remove what is there", path, error.value());
  }

  void sync_directory(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
      // One that may be written but not read can't be brought to the disk by itself.
      if (errno == EACCES || errno == EPERM) return;
      fail("cannot open the directory", path, errno);
    }
    int error = 0;
    while (::fsync(fd) != 0) {
      error = errno;
      if (error != EINTR) break;
      error = 0;
    }
    ::close(fd);
    // File systems that can't bring a directory to the disk.
    if (error == EINVAL || error == ENOTSUP || error == EBADF || error == EROFS) error = 0;
    if (error != 0) fail("cannot bring the directory to the disk", path, error);
  }

  int64_t free_bytes(const std::string& path) override {
    fs::path there = fs::absolute(path);
    struct statvfs status {};
    while (::statvfs(there.c_str(), &status) != 0) {
      const int error = errno;
      if (error == EINTR) continue;
      if ((error != ENOENT && error != ENOTDIR) || there == there.parent_path()) {
        fail("cannot find out the free space", there.string(), error);
      }
      there = there.parent_path();
    }
    return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
  }
};

}  // namespace

FileSystem& local_files() {
  static LocalFiles files;  // has no state
  return files;
}

}  // namespace trireme
