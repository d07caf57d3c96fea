#include "core/metrics/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/metrics/files.h"
#include "core/metrics/run_directory.h"

namespace trireme {

namespace {

// "process 123 on HOST", as the holder wrote it down.
std::string holder_of(int fd) {
  std::array<char, 512> text = {};
  const ssize_t count = ::pread(fd, text.data(), text.size() - 1, 0);
  return count > 0 ? std::string(text.data(), static_cast<size_t>(count)) : "a process that left no name";
}

}  // namespace

RunLock::RunLock(const std::filesystem::path& directory, std::chrono::milliseconds patience) {
  const std::filesystem::path path = directory / "run.lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_file("can't open the run directory's lock", path, errno);
  constexpr std::chrono::milliseconds kPause{50};
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return;  // no locks on this file system
    if (patience <= std::chrono::milliseconds(0)) {
      const std::string holder = holder_of(fd_);
      ::close(fd_);
      throw MachineError({.what = "another run is at work in this run directory",
                          .found = holder,
                          .where = directory.string(),
                          .hint = "another run.dir, or ending that run first"});
    }
    std::this_thread::sleep_for(kPause);
    patience -= kPause;
  }
  const std::string text = "process " + std::to_string(::getpid()) + " on " + host_name();
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) < 0) {
    // The name is for people; the lock holds without it.
  }
}

RunLock::~RunLock() { ::close(fd_); }

}  // namespace trireme
