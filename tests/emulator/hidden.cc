#include "tests/emulator/hidden.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace emulator {

namespace {

constexpr int kSpins = 200;  // before a thread sleeps: about as long as a wake-up takes

void pause_cpu() { __builtin_ia32_pause(); }

}  // namespace

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, double seconds) {
  timespec limit;
  limit.tv_sec = static_cast<time_t>(seconds);
  limit.tv_nsec = static_cast<long>((seconds - static_cast<double>(limit.tv_sec)) * 1e9);
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, seconds < 0 ? nullptr : &limit,
          nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int threads) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

// Drepper, "Futexes are tricky", 2011: mutex3.
void HiddenMutex::lock() {
  uint32_t seen = 0;
  if (state_.compare_exchange_strong(seen, 1, std::memory_order_acquire)) return;
  for (int i = 0; i < kSpins; ++i) {
    pause_cpu();
    seen = 0;
    if (state_.compare_exchange_strong(seen, 1, std::memory_order_acquire)) return;
  }
  while (state_.exchange(2, std::memory_order_acquire) != 0) futex_wait(state_, 2);
}

void HiddenMutex::unlock() {
  if (state_.exchange(0, std::memory_order_release) == 2) futex_wake(state_, 1);
}

void HiddenCondition::wait(HiddenMutex& mutex) {
  const uint32_t seen = count_.load();
  mutex.unlock();
  futex_wait(count_, seen);
  mutex.lock();
}

bool HiddenCondition::wait_for(HiddenMutex& mutex, double seconds) {
  const uint32_t seen = count_.load();
  const double end = now_seconds() + seconds;
  mutex.unlock();
  futex_wait(count_, seen, seconds);
  mutex.lock();
  return count_.load() != seen || now_seconds() < end;
}

void HiddenCondition::notify_all() {
  count_.fetch_add(1);
  futex_wake(count_, INT_MAX);
}

void Progress::advance(uint64_t by) {
  value_.store(value_.load(std::memory_order_relaxed) + by, std::memory_order_seq_cst);
  if (num_waiters_.load(std::memory_order_seq_cst) == 0) return;
  changed_.fetch_add(1);
  futex_wake(changed_, INT_MAX);
}

bool Progress::wait(uint64_t target, double seconds) {
  for (int i = 0; i < kSpins; ++i) {
    if (value() >= target) return true;
    pause_cpu();
  }
  const double end = seconds < 0 ? 0 : now_seconds() + seconds;
  num_waiters_.fetch_add(1, std::memory_order_seq_cst);
  bool reached = true;
  for (;;) {
    const uint32_t seen = changed_.load(std::memory_order_seq_cst);
    if (value_.load(std::memory_order_seq_cst) >= target) break;
    const double left = seconds < 0 ? -1 : end - now_seconds();
    if (seconds >= 0 && left <= 0) {
      reached = false;
      break;
    }
    futex_wait(changed_, seen, left);
  }
  num_waiters_.fetch_sub(1, std::memory_order_seq_cst);
  return reached;
}

double now_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace emulator
