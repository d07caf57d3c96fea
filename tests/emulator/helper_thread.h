// Shares the blocks of a grid between the stream's thread and, for large grids, one helper.
#pragma once

#include <atomic>
#include <string>

#include "tests/emulator/block.h"
#include "tests/emulator/hidden.h"
#include "tests/emulator/protection.h"

namespace emulator {

class StreamThread;

// Runs all blocks; says how the first that failed did.
Failure run_grid(const Grid& grid, DeviceMask devices, StreamThread& thread);

// What the threads of one launch share.
class Blocks {
 public:
  // Under ThreadSanitizer neighbouring blocks run on different threads, so that it can compare them; otherwise a thread
  // takes what comes next.
  Blocks(const Grid& grid, DeviceMask devices, int num_workers);
  void work(int worker);
  Failure failure();

  DeviceMask devices() const { return devices_; }

 private:
  int64_t place(int64_t i) const;  // which block runs as the i-th
  void note_failure(const Failure& failure);

  const Grid& grid_;
  const DeviceMask devices_;
  const int num_workers_;
  const Order order_;
  const uint64_t seed_;
  const bool alternate_;
  int64_t stride_ = 1;
  int64_t chunk_ = 1;
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> failed_{0};
  HiddenMutex mutex_;
  Failure failure_;
};

class HelperThread {
 public:
  static HelperThread* start();

  void post(Blocks& blocks, char* begin_token, char* end_token);
  // Waits until it is done; takes the work back from one that hasn't begun, unless `must_run`.
  void finish(bool must_run);

 private:
  enum State : uint32_t { idle, posted, working };
  void main();

  std::atomic<uint32_t> state_{idle};
  std::atomic<uint32_t> waited_for_{0};
  Blocks* blocks_ = nullptr;
  char* begin_token_ = nullptr;
  char* end_token_ = nullptr;
};

}  // namespace emulator
