// A piece of memory that several processes of one machine map.
//
// It is an anonymous memory file: nothing is left behind when a process is killed, and the size of /dev/shm
// doesn't matter. The others open it through /proc/PID/fd, so they must run as the same user and see the
// creator's process id. Pages cost memory when they are first touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace trireme {

class SharedSegment {
 public:
  // A new one of zeros; nullptr when the system refuses.
  static std::unique_ptr<SharedSegment> create(int64_t bytes);
  // Maps the segment that process `pid` holds as `descriptor`; nullptr when that is not possible.
  static std::unique_ptr<SharedSegment> open(int pid, int descriptor, int64_t bytes);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }
  // After everybody has opened it; the mapping stays.
  void close_descriptor();

 private:
  SharedSegment(std::byte* data, int64_t bytes, int descriptor) : data_(data), bytes_(bytes), descriptor_(descriptor) {}
  static std::unique_ptr<SharedSegment> map(int descriptor, int64_t bytes);

  std::byte* data_;
  int64_t bytes_;
  int descriptor_;
};

}  // namespace trireme
