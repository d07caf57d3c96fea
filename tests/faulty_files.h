// A file system for tests that fails where it is told to. It numbers the operations that pass through it from 1 on (create,
// write, sync, close, rename, remove, make_directories, sync_directory) and hands them on to another one. Syncs are only
// noted (lose_unsynced): real ones would take most of a test's time.
//
// A test runs its code once to learn how many operations there are, then again for each of them:
//   for (int64_t k = 1; k <= num_operations; ++k) { FaultyFiles files; files.fail_at(k, ENOSPC); … }
//
// Thread safety: all of it, with one exception: lose_unsynced only when nobody else is at work.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/formats/file_system.h"

namespace trireme::testing {

// The machine has lost its power. Not an Error of Trireme's, so that nothing takes it for a failed write that it can
// clean up after: every later operation throws it too.
struct PowerCut : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class FaultyFiles : public FileSystem {
 public:
  explicit FaultyFiles(FileSystem& files = local_files()) : files_(files) {}

  // Operation `number` fails with this errno value, as a MachineError; it does nothing.
  void fail_at(int64_t number, int error) { set_fault({Fault::Kind::fail, number, error}); }
  // As above, but a write leaves the first half of its bytes.
  void cut_write_at(int64_t number, int error) { set_fault({Fault::Kind::cut, number, error}); }
  // Everything that takes space fails from this operation on, until `repair`: a full disk.
  void fill_disk_at(int64_t number) { set_fault({Fault::Kind::full, number, 0}); }
  // This operation and everything after it throws PowerCut; if it is a write, half of it arrives.
  void cut_power_at(int64_t number) { set_fault({Fault::Kind::power, number, 0}); }
  // From here on no fault, and numbers begin at 1 again.
  void repair() { set_fault({}); }

  // Every write takes this much longer.
  void delay_writes(std::chrono::microseconds delay);
  // What free_bytes says; negative: the truth.
  void say_free_bytes(int64_t bytes);

  int64_t num_operations() const;
  bool fault_happened() const;
  // "write PATH", in order, since the beginning or `repair`.
  std::vector<std::string> operations() const;

  // After a power cut, the worst that a disk may do: files that were written after their last sync hold zeros, and
  // (where `names`) what was created or renamed since the last sync of its directory isn't there, or back under its
  // old name (and what it replaced is back).
  void lose_unsynced(bool names);

  std::unique_ptr<OutputFile> create(const std::string& path) override;
  void make_directories(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void remove(const std::string& path) override;
  void sync_directory(const std::string& path) override;
  int64_t free_bytes(const std::string& path) override;

 private:
  class File;
  friend class File;
  struct Fault {
    enum class Kind { none, fail, cut, full, power };
    Kind kind = Kind::none;
    int64_t number = 0;
    int error = 0;
  };
  // A name that may not be on the disk yet: a new file or directory, or one that was `from`.
  struct NewName {
    std::string path;
    std::string from;                     // empty: it was created
    std::optional<std::string> replaced;  // bytes of the file that the rename replaced
  };

  void set_fault(const Fault& fault);
  // Counts an operation. Throws where it fails; true where it is a write that shall be cut (then `throw_fault`).
  bool begin(const std::string& operation, const std::string& path);
  [[noreturn]] void throw_fault(const std::string& operation, const std::string& path) const;
  void set_dirty(const std::string& path, bool dirty);

  FileSystem& files_;
  mutable std::mutex mutex_;
  Fault fault_;
  bool fault_happened_ = false;
  std::vector<std::string> operations_;
  std::chrono::microseconds delay_{0};
  int64_t free_bytes_ = -1;
  std::map<std::string, bool> dirty_;  // path of each file: written after its last sync
  std::vector<NewName> new_names_;     // in the order in which they came
};

}  // namespace trireme::testing
