// A fixed set of threads that one rank owns; our CPU kernels run on it.
//
// The caller takes part: a pool of size n starts n-1 threads. Work is cut into chunks by the caller's
// `grain`, never by the number of threads, so that a sum over chunks has the same bits on any pool.
// Chunks are claimed dynamically, which evens out cores of unequal speed.
// Thread safety: `run` may be called by one thread at a time; a nested call from inside a task runs inline.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace trireme {

class ThreadPool {
 public:
  // `num_threads` >= 1, the caller included.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls task(i) once for each i in [0, num_tasks), on any thread of the pool; returns when all are done.
  // The first exception that a task throws is thrown here.
  template <class Task>
  void run(int64_t num_tasks, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased(
        num_tasks, [](void* self, int64_t i) { (*static_cast<Plain*>(self))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

  // Calls body(begin, end) on ranges of `grain` elements (the last may be shorter) that cover [0, n).
  template <class Body>
  void for_ranges(int64_t n, int64_t grain, Body&& body) {
    if (n <= 0) return;
    if (n <= grain) {
      body(int64_t{0}, n);
      return;
    }
    run((n + grain - 1) / grain, [&](int64_t i) {
      const int64_t begin = i * grain;
      const int64_t end = begin + grain < n ? begin + grain : n;
      body(begin, end);
    });
  }

 private:
  using Function = void (*)(void*, int64_t);
  void run_erased(int64_t num_tasks, Function function, void* data);
  void worker();
  void work_on_current();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};  // odd bits unused; a new value announces a new job
  std::atomic<bool> stop_{false};

  // The current job, written before generation_ is released.
  Function function_ = nullptr;
  void* data_ = nullptr;
  int64_t num_tasks_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};  // workers that have not finished the current job
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace trireme
