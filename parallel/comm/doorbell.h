// Wakes a communication thread, from its own process or from another one that maps the same memory.
//
// The sleeper reads the bell, looks for work, and if there is none waits for the bell to differ from what it
// read; so no ring is lost. Ringing costs a system call only when the other side sleeps.
#pragma once

#include <atomic>
#include <cstdint>

namespace trireme {

// Lies in shared memory, all zero at first; a cache line of its own.
class alignas(64) Doorbell {
 public:
  uint32_t read() const { return value_.load(std::memory_order_seq_cst); }
  void ring();
  // Returns when the bell no longer shows `seen`, or after `timeout_us` microseconds (< 0: never), or spuriously.
  void wait(uint32_t seen, int64_t timeout_us);

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleeping_{0};
};

}  // namespace trireme
