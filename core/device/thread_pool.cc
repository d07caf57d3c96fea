#include "core/device/thread_pool.h"

#include <immintrin.h>

#include "core/error.h"

namespace trireme {

namespace {

// How often an idle thread looks before it sleeps: about 50 microseconds, the length of a gap between
// two kernels of a step. Longer spinning takes the core away from communication threads.
constexpr int kSpins = 1500;

thread_local bool inside_task = false;

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  TRIREME_CHECK(num_threads >= 1);
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this] { worker(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::work_on_current() {
  inside_task = true;
  for (;;) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= num_tasks_) break;
    try {
      function_(data_, i);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  inside_task = false;
}

void ThreadPool::worker() {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        _mm_pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
    }
    ++seen;
    if (stop_.load()) return;
    work_on_current();
    busy_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::run_erased(int64_t num_tasks, Function function, void* data) {
  if (num_tasks <= 0) return;
  if (threads_.empty() || num_tasks == 1 || inside_task) {
    for (int64_t i = 0; i < num_tasks; ++i) function(data, i);
    return;
  }
  function_ = function;
  data_ = data;
  num_tasks_ = num_tasks;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1, std::memory_order_acq_rel);
  }
  wake_.notify_all();
  work_on_current();
  int spins = 0;
  while (busy_.load(std::memory_order_acquire) != 0) {
    if (++spins < kSpins) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) {
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

}  // namespace trireme
