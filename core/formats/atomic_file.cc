#include "core/formats/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace trireme {

namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
// Linux writes at most about 2 GiB in one call.
constexpr size_t kMaxWriteBytes = size_t{1} << 30;

std::filesystem::path parent_of(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {
  std::error_code error;
  std::filesystem::create_directories(parent_of(path), error);
  if (error) fail("cannot make the directory of the file", error.value());
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("cannot create the file", errno);
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const std::string& what, int error) const {
  std::string hint;
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) hint = "freeing space there, or another place";
  if (error == EACCES || error == EPERM || error == EROFS) hint = "a directory that you may write to";
  throw MachineError({.what = what, .found = errno_text(error), .where = path_, .hint = hint});
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
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), std::min(bytes.size(), kMaxWriteBytes), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("cannot write the file", errno);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void AtomicFile::commit() {
  TRIREME_CHECK(fd_ >= 0, "a file committed twice");
  flush();
  if (::fsync(fd_) != 0) fail("cannot bring the file to the disk", errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail("cannot close the file", error);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail("cannot rename the finished file into place", error);
  }
  // The rename itself lasts only when the directory has reached the disk. Some file systems can't do that;
  // the file is whole either way.
  const int directory = ::open(parent_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);
    ::close(directory);
  }
}

}  // namespace trireme
