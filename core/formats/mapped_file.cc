#include "core/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace trireme {

std::string errno_text(int error) { return std::generic_category().message(error); }

bool file_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

namespace {

[[noreturn]] void fail_open(const std::string& path, int error) {
  const ErrorText text{.what = error == ENOENT ? "the file does not exist" : "cannot open the file",
                       .found = error == ENOENT ? "" : errno_text(error),
                       .where = path};
  if (error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO) throw MachineError(text);
  throw DataError(text);
}

// Closes a descriptor at the end of a scope; a mapping outlives it.
struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail_open(path, errno);
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) fail_open(path, errno);
  if (!S_ISREG(status.st_mode)) {
    throw DataError({.what = "cannot read this as a file",
                     .expected = "a regular file",
                     .found = S_ISDIR(status.st_mode) ? "a directory" : "something else",
                     .where = path});
  }
  if (status.st_size == 0) {
    throw DataError({.what = "the file is empty",
                     .found = "0 bytes",
                     .where = path,
                     .hint = "making it again: its writer was interrupted or the disk was full"});
  }
  size_bytes_ = status.st_size;
  void* mapping = ::mmap(nullptr, static_cast<size_t>(size_bytes_), PROT_READ, MAP_SHARED, file.fd, 0);
  if (mapping == MAP_FAILED) {
    throw MachineError({.what = "cannot map the file (" + std::to_string(size_bytes_) + " bytes)",
                        .found = errno_text(errno),
                        .where = path,
                        .hint = "a look at the limits of `ulimit -v`"});
  }
  data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::~MappedFile() { unmap(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_bytes_ = std::exchange(other.size_bytes_, 0);
  }
  return *this;
}

int MappedFile::advise(int64_t offset, int64_t count, int advice) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t begin = offset / page * page;
  const int64_t end = std::min(offset + count, size_bytes_);
  if (begin >= end) return 0;
  return ::madvise(const_cast<std::byte*>(data_) + begin, static_cast<size_t>(end - begin), advice) == 0 ? 0 : errno;
}

void MappedFile::prefetch(int64_t offset, int64_t count) const { advise(offset, count, MADV_WILLNEED); }

void MappedFile::populate(int64_t offset, int64_t count) const {
#ifdef MADV_POPULATE_READ  // Linux 5.14
  const int error = advise(offset, count, MADV_POPULATE_READ);
  // Touching these pages would end the process. What an older system says of the advice is no error.
  if (error == EFAULT || error == EHWPOISON || error == EIO) {
    throw DataError({.what = "cannot read the file",
                     .found = "an error of the disk, or a file that was cut, in bytes " + std::to_string(offset) +
                              " to " + std::to_string(std::min(offset + count, size_bytes_)),
                     .where = path_});
  }
#else
  prefetch(offset, count);
#endif
}

void MappedFile::unmap() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_bytes_));
  data_ = nullptr;
}

}  // namespace trireme
