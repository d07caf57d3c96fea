#include "core/metrics/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace trireme {

namespace {

// Writes all of `text`; returns 0 or errno, and counts what was written.
int write_all(int fd, std::string_view text, size_t* total = nullptr) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;
    text.remove_prefix(static_cast<size_t>(written));
    if (total) *total += static_cast<size_t>(written);
  }
  return 0;
}

}  // namespace

void fail_file(const std::string& what, const std::filesystem::path& path, int error_number) {
  std::string hint;
  if (error_number == ENOSPC || error_number == EDQUOT) hint = "freeing space there, or another run.dir";
  if (error_number == EACCES || error_number == EPERM || error_number == EROFS) {
    hint = "a directory that this user may write to (run.dir)";
  }
  throw MachineError({.what = what + ": " + std::strerror(error_number), .where = path.string(), .hint = hint});
}

void replace_file(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += ".tmp" + std::to_string(::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_file("can't create a file", temporary, errno);
  int error = write_all(fd, text);
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail_file("can't write a file", path, error);
  }
}

AppendFile::AppendFile(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (fd_ < 0) fail_file("can't open a file", path_, errno);
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view piece) {
  size_t written = 0;
  const int error = write_all(fd_, piece, &written);
  if (error == 0) return;
  // Take the torn piece back, unless another process has appended behind it.
  struct stat file = {};
  const bool ours =
      written > 0 && ::fstat(fd_, &file) == 0 && S_ISREG(file.st_mode) && ::lseek(fd_, 0, SEEK_CUR) == file.st_size;
  const bool taken_back = ours && ::ftruncate(fd_, file.st_size - static_cast<off_t>(written)) == 0;
  fail_file(taken_back || written == 0 ? "can't append to a file" : "only a part was appended to a file", path_, error);
}

}  // namespace trireme
