// One run at a time in a run directory: two would write each other's checkpoints and rows.
//
// Held through a lock on DIR/run.lock that the system takes away when the process ends, however it ends; the file itself
// stays and means nothing. Where the file system knows no such locks, nothing is checked.
// Thread safety: none. Errors: MachineError that names the process and host that hold it.
#pragma once

#include <chrono>
#include <filesystem>

namespace trireme {

class RunLock {
 public:
  // Waits a little for a run that is just being ended, as a restart finds it.
  static constexpr std::chrono::milliseconds kPatience{5000};

  explicit RunLock(const std::filesystem::path& directory, std::chrono::milliseconds patience = kPatience);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int fd_;
};

}  // namespace trireme
