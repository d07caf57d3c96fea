#include "parallel/comm/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

namespace trireme {

std::unique_ptr<SharedSegment> SharedSegment::map(int descriptor, int64_t bytes) {
  void* data =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  if (data == MAP_FAILED) {
    ::close(descriptor);
    return nullptr;
  }
  return std::unique_ptr<SharedSegment>(new SharedSegment(static_cast<std::byte*>(data), bytes, descriptor));
}

std::unique_ptr<SharedSegment> SharedSegment::create(int64_t bytes) {
  const int descriptor = ::memfd_create("trireme-communicator", MFD_CLOEXEC);
  if (descriptor < 0) return nullptr;
  if (::ftruncate(descriptor, bytes) != 0) {
    ::close(descriptor);
    return nullptr;
  }
  return map(descriptor, bytes);
}

std::unique_ptr<SharedSegment> SharedSegment::open(int pid, int descriptor, int64_t bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(descriptor);
  const int mine = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (mine < 0) return nullptr;
  // A foreign process may have this id where process ids are not shared: it holds something else.
  struct stat status {};
  if (::fstat(mine, &status) != 0 || status.st_size != bytes) {
    ::close(mine);
    return nullptr;
  }
  return map(mine, bytes);
}

SharedSegment::~SharedSegment() {
  ::munmap(data_, static_cast<size_t>(bytes_));
  close_descriptor();
}

void SharedSegment::close_descriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace trireme
