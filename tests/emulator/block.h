// Runs the blocks of a kernel, one at a time, each CUDA thread as a fiber: a stack of its own on the host thread of the
// block. A fiber runs until it waits at a barrier or in a warp operation, or returns; then it switches straight to the
// next that can run. The stack of one that has returned starts the next, so a kernel that never waits never switches.
//
// Fibers run in the order of emulator.h. Threads that can go on come before threads that haven't started.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tests/emulator/emulator.h"
#include "tests/emulator/kernel_info.h"
#include "tests/emulator/stacks.h"
#include "tests/emulator/switch.h"

namespace emulator {

inline constexpr int kMaxBlockThreads = 1024;
inline constexpr int kWarpLanes = 32;

// A launch, as its blocks see it.
struct Grid {
  const Body* body = nullptr;
  const KernelInfo* kernel = nullptr;
  dim3 grid;
  dim3 block;
  size_t dynamic_bytes = 0;

  int64_t num_blocks() const { return static_cast<int64_t>(grid.x) * grid.y * grid.z; }
  int num_threads() const { return static_cast<int>(block.x * block.y * block.z); }
};

// How a block failed.
struct Failure {
  std::string message;  // empty: it didn't
  cudaError_t error = cudaErrorLaunchFailure;
};

enum class ThreadState : uint8_t { unstarted, ready, at_barrier, in_warp, returned };

// One CUDA thread of the block that runs: one line of the cache.
struct alignas(64) CudaThread {
  void* stack_pointer;  // while it doesn't run
  char* stack_top;
  // Of the warp operation that it waits in
  uint64_t value;   // given
  uint64_t result;  // taken when it goes on
  uint32_t mask;
  int argument;
  uint3 index;
  uint16_t number;  // in the block
  uint8_t width;
  WarpOp op;
  ThreadState state;
};
static_assert(sizeof(CudaThread) == 64);

class BlockRunner {
 public:
  explicit BlockRunner(bool race_fibers);
  ~BlockRunner();
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  // Sets up for blocks of `grid`, which must outlive them. `order` and `seed` as in emulator.h.
  void begin(const Grid& grid, Order order, uint64_t seed);
  // Runs block `block` of the grid. False when it failed: `failure` says how, and no block may follow.
  bool run(int64_t block);
  const Failure& failure() const { return failure_; }
  const char* kernel_name() const { return grid_->kernel->name.c_str(); }
  std::string where() const;  // "kernel NAME, block (1, 0, 0)" of the one that runs

  // By the fiber that runs
  void barrier();
  uint64_t warp_operation(WarpOp op, uint32_t mask, uint64_t value, int argument, int width);
  [[noreturn]] void fail(std::string what, cudaError_t error = cudaErrorLaunchFailure);
  [[noreturn]] void fail_for_fault();

  static BlockRunner* running();  // on this host thread; null outside of kernels
  // For the handler of faults: what fail_for_fault() is to speak of, and whether a fiber's stack lies there.
  void note_fault(uintptr_t address) { fault_ = address; }
  bool owns_stack_address(uintptr_t address) const { return stacks_.contains(address); }

 private:
  static void fiber_main();
  void fill_shared();
  void set_block(int64_t block);
  const char* touched_guard() const;  // where dynamic shared memory was left: "before", "behind"; null: nowhere
  void start(CudaThread& thread);
  void make_current(CudaThread& thread);
  CudaThread* pick();  // the next to run; null: none can
  void wait();         // leaves the running fiber for the next
  bool finish();       // the running thread has returned; true: its stack begins with another
  void switch_to(CudaThread& me, CudaThread& next);
  [[noreturn]] void leave();  // for the host thread's own stack
  void complete_barrier();
  void complete_warp(CudaThread* lanes, uint32_t mask);
  void order_accesses(CudaThread* threads, int count, uint32_t mask);
  [[noreturn]] void deadlock();
  void make_order(uint16_t* numbers, int count);
  uint64_t random();
  void switch_race_fiber(CudaThread& thread);
  void delete_race_fibers();
  void push(const CudaThread& thread) { ready_[ready_end_++ % kRing] = thread.number; }

  static constexpr uint32_t kRing = 2048;

  const Grid* grid_ = nullptr;
  Order order_ = Order::forward;
  uint64_t seed_ = 1;
  uint64_t random_state_ = 1;
  const bool race_fibers_;

  // The block
  int num_threads_ = 0;
  int num_started_ = 0;
  int num_returned_ = 0;
  int num_at_barrier_ = 0;
  CudaThread* current_ = nullptr;
  uint32_t ready_begin_ = 0;
  uint32_t ready_end_ = 0;
  uint32_t waiting_lanes_[kMaxBlockThreads / kWarpLanes];
  void* main_stack_pointer_ = nullptr;
  void* main_race_fiber_ = nullptr;
  char* begin_token_ = nullptr;
  char* end_token_ = nullptr;
  Failure failure_;
  uintptr_t fault_ = 0;

  Stacks stacks_;
  std::unique_ptr<CudaThread[]> threads_;
  std::unique_ptr<void*[]> race_fibers_of_;  // of each thread, where they are wanted
  uint16_t order_of_threads_[kMaxBlockThreads];
  uint16_t ready_[kRing];
};

inline void BlockRunner::make_current(CudaThread& thread) {
  current_ = &thread;
  ::threadIdx = thread.index;
  if (race_fibers_) switch_race_fiber(thread);
}

inline CudaThread* BlockRunner::pick() {
  const bool some_unstarted = num_started_ < num_threads_;
  if (ready_begin_ != ready_end_ && !(some_unstarted && order_ == Order::seeded && (random() & 1) != 0)) {
    return &threads_[ready_[ready_begin_++ % kRing]];
  }
  if (some_unstarted) return &threads_[order_of_threads_[num_started_++]];
  return nullptr;
}

inline void BlockRunner::switch_to(CudaThread& me, CudaThread& next) {
  if (next.state == ThreadState::unstarted) start(next);
  next.state = ThreadState::ready;
  make_current(next);
  emulator_switch(&me.stack_pointer, next.stack_pointer);
}

inline void BlockRunner::wait() {
  CudaThread& me = *current_;
  CudaThread* next = pick();
  if (next == nullptr) deadlock();
  if (next != &me) switch_to(me, *next);
}

}  // namespace emulator
