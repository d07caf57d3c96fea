// For the benchmark of checkpoints: plain files, a disk of a chosen speed, and what its writers cost.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/formats/file_system.h"

namespace trireme {

inline constexpr int64_t kPiece = int64_t{4} << 20;

inline void require(bool condition, const char* what) {
  if (!condition)
    throw MachineError({.what = std::string("the benchmark can't ") + what, .found = std::strerror(errno)});
}

inline void plain_write(const std::string& path, int64_t bytes) {
  std::vector<char> piece(kPiece);
  for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<char>(i * 31 + i / 4096);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  require(fd >= 0, "create a file");
  for (int64_t at = 0; at < bytes; at += kPiece) {
    const auto n = static_cast<size_t>(std::min(kPiece, bytes - at));
    require(::pwrite(fd, piece.data(), n, at) == static_cast<ssize_t>(n), "write a file");
  }
  require(::fsync(fd) == 0, "flush a file");
  ::close(fd);
}

inline void plain_read(const std::string& path) {
  std::vector<char> piece(kPiece);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "open a file");
  while (::read(fd, piece.data(), piece.size()) > 0) {
  }
  ::close(fd);
}

// Out of the system's cache. REQUIRES: it was flushed.
inline void evict(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "open a file");
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

// Processor time.
struct ProcessorTime {
  double user = 0;
  double system = 0;

  double sum() const { return user + system; }
  ProcessorTime operator-(const ProcessorTime& other) const { return {user - other.user, system - other.system}; }
  ProcessorTime operator+(const ProcessorTime& other) const { return {user + other.user, system + other.system}; }

  // Of this process, or of the calling thread: RUSAGE_SELF, RUSAGE_THREAD.
  static ProcessorTime of(int who) {
    rusage usage{};
    ::getrusage(who, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return {seconds(usage.ru_utime), seconds(usage.ru_stime)};
  }
};

// Local files, on a disk that all writers share and that takes so many bytes a second, as one behind a network: a write
// returns when the disk would have taken it. Thread safety: as FileSystem.
class LimitedDisk final : public FileSystem {
 public:
  // From here on; 0: as fast as the disk is.
  void set_rate(double bytes_per_second) {
    const std::lock_guard lock(mutex_);
    rate_ = bytes_per_second;
    free_at_ = Clock::now();
  }
  // What threads that closed a file of a rank had taken by then, all together since the last call: writers write one.
  ProcessorTime take_writers() {
    const std::lock_guard lock(mutex_);
    return std::exchange(writers_, {});
  }

  std::unique_ptr<OutputFile> create(const std::string& path) override {
    return std::make_unique<File>(*this, files_.create(path), path.find("/rank-") != std::string::npos);
  }
  void make_directories(const std::string& path) override { files_.make_directories(path); }
  void rename(const std::string& from, const std::string& to) override { files_.rename(from, to); }
  void remove(const std::string& path) override { files_.remove(path); }
  void sync_directory(const std::string& path) override { files_.sync_directory(path); }
  int64_t free_bytes(const std::string& path) override { return files_.free_bytes(path); }

 private:
  using Clock = std::chrono::steady_clock;

  class File final : public OutputFile {
   public:
    File(LimitedDisk& disk, std::unique_ptr<OutputFile> file, bool of_a_rank)
        : disk_(disk), file_(std::move(file)), of_a_rank_(of_a_rank) {}

    void write_at(int64_t offset, std::span<const std::byte> bytes) override {
      const Clock::time_point taken = disk_.reserve(bytes.size());
      file_->write_at(offset, bytes);
      std::this_thread::sleep_until(taken);
    }
    void sync() override { file_->sync(); }
    void close() override {
      file_->close();
      if (!of_a_rank_) return;
      const std::lock_guard lock(disk_.mutex_);
      disk_.writers_ = disk_.writers_ + ProcessorTime::of(RUSAGE_THREAD);
    }

   private:
    LimitedDisk& disk_;
    std::unique_ptr<OutputFile> file_;
    const bool of_a_rank_;
  };

  // When the disk will have taken them.
  Clock::time_point reserve(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (rate_ <= 0) return Clock::time_point{};
    free_at_ =
        std::max(free_at_, Clock::now()) +
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(static_cast<double>(bytes) / rate_));
    return free_at_;
  }

  FileSystem& files_ = local_files();
  std::mutex mutex_;
  double rate_ = 0;
  Clock::time_point free_at_;
  ProcessorTime writers_;
};

}  // namespace trireme
