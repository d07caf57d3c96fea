#include "parallel/comm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace trireme {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);

void Doorbell::ring() {
  value_.fetch_add(1, std::memory_order_seq_cst);
  // Only the sleeper clears the flag. A ringer that did, on its way to wake an earlier sleep, could hit the next one
  // before it begins, and whoever rings then would believe that nobody sleeps.
  if (sleeping_.load(std::memory_order_seq_cst) != 0) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value_), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

void Doorbell::wait(uint32_t seen, int64_t timeout_us) {
  sleeping_.store(1, std::memory_order_seq_cst);
  if (value_.load(std::memory_order_seq_cst) == seen) {
    timespec timeout{};
    timeout.tv_sec = timeout_us / 1000000;
    timeout.tv_nsec = timeout_us % 1000000 * 1000;
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value_), FUTEX_WAIT, seen, timeout_us < 0 ? nullptr : &timeout,
              nullptr, 0);
  }
  sleeping_.store(0, std::memory_order_seq_cst);
}

}  // namespace trireme
