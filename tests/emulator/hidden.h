// Sleeping and waking without a trace for ThreadSanitizer, below HiddenMutex and HiddenCondition of stream.h.
//
// All files of the emulator that are listed in CMakeLists.txt as hidden are compiled without the sanitizer's
// instrumentation, and use neither std::mutex nor anything else that it intercepts to order threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "tests/emulator/stream.h"

namespace emulator {

// Sleeps until woken, unless `word` isn't `seen` any more; may return early. `seconds` < 0: without end.
void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, double seconds = -1);
void futex_wake(std::atomic<uint32_t>& word, int threads);

class HiddenLock {
 public:
  explicit HiddenLock(HiddenMutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~HiddenLock() { mutex_.unlock(); }
  HiddenLock(const HiddenLock&) = delete;
  HiddenLock& operator=(const HiddenLock&) = delete;

 private:
  HiddenMutex& mutex_;
};

// A number that only grows, and threads that wait for it.
class Progress {
 public:
  uint64_t value() const { return value_.load(std::memory_order_acquire); }
  // By one thread at a time.
  void advance(uint64_t by = 1);
  // False when `seconds` (< 0: no limit) are over before `target` was reached.
  bool wait(uint64_t target, double seconds = -1);

 private:
  std::atomic<uint64_t> value_{0};
  std::atomic<uint32_t> changed_{0};
  std::atomic<uint32_t> num_waiters_{0};
};

double now_seconds();

}  // namespace emulator
