#include "tests/emulator/block.h"

#include <algorithm>
#include <cstring>

#include "tests/emulator/emulator.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/poison.h"
#include "tests/emulator/race.h"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

namespace emulator {

namespace {

constexpr size_t kGuardBytes = 64;  // before and behind dynamic shared memory, to see that nobody writes there

// So that what a block does depends on nothing but the seed and its number. Never 0.
uint64_t mix(uint64_t seed, int64_t block) {
  return ((seed + 1) * 0x9E3779B97F4A7C15ULL ^ static_cast<uint64_t>(block + 2) * 0xD1B54A32D192ED03ULL) | 1;
}

__thread BlockRunner* running_block __attribute__((tls_model("initial-exec"))) = nullptr;

}  // namespace

}  // namespace emulator

// Dynamic shared memory between its guards. The name that kernels know begins behind the first, which C++ can't say.
extern "C" {
__attribute__((used)) __thread __align__(
    64) unsigned char emulator_guarded_shared[emulator::kGuardBytes + emulator::kMostSharedBytes +
                                              emulator::kGuardBytes];
}
asm(".globl _Z22trireme_dynamic_sharedB6shared\n"
    ".type _Z22trireme_dynamic_sharedB6shared, @tls_object\n"
    ".set _Z22trireme_dynamic_sharedB6shared, emulator_guarded_shared + 64");
static_assert(emulator::kGuardBytes == 64, "as in the assembly");

namespace emulator {

namespace {

uintptr_t dynamic_shared_begin() { return reinterpret_cast<uintptr_t>(emulator_guarded_shared) + kGuardBytes; }

__attribute__((no_sanitize("address"))) bool is_untouched(uintptr_t guard) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(guard);
  unsigned char all = 0xFF;
  for (size_t i = 0; i < kGuardBytes; ++i) all &= bytes[i];
  return all == 0xFF;
}

}  // namespace

BlockRunner::BlockRunner(bool race_fibers)
    : race_fibers_(race_fibers),
      stacks_(kMaxBlockThreads),
      threads_(new CudaThread[kMaxBlockThreads]),
      race_fibers_of_(race_fibers ? new void* [kMaxBlockThreads] {} : nullptr) {}

BlockRunner::~BlockRunner() { delete_race_fibers(); }

BlockRunner* BlockRunner::running() { return running_block; }

void BlockRunner::begin(const Grid& grid, Order order, uint64_t seed) {
  grid_ = &grid;
  order_ = order;
  seed_ = seed;
  random_state_ = mix(seed, -1);
  num_threads_ = grid.num_threads();
  ::gridDim = grid.grid;
  ::blockDim = grid.block;
  int number = 0;
  for (unsigned z = 0; z < grid.block.z; ++z) {
    for (unsigned y = 0; y < grid.block.y; ++y) {
      for (unsigned x = 0; x < grid.block.x; ++x, ++number) {
        threads_[number].number = static_cast<uint16_t>(number);
        threads_[number].index = uint3{x, y, z};
      }
    }
  }
  make_order(order_of_threads_, num_threads_);
  const uintptr_t shared = dynamic_shared_begin();
  fill_unseen(shared - kGuardBytes, kGuardBytes);
  fill_unseen(shared + grid.dynamic_bytes, kGuardBytes);
  poison(shared - kGuardBytes, sizeof emulator_guarded_shared);
  unpoison(shared, grid.dynamic_bytes);
}

bool BlockRunner::run(int64_t block) {
  set_block(block);
  fill_shared();
  num_started_ = num_returned_ = num_at_barrier_ = 0;
  ready_begin_ = ready_end_ = 0;
  failure_ = {};
  for (int i = 0; i < num_threads_; ++i) threads_[i].state = ThreadState::unstarted;
  std::fill_n(waiting_lanes_, (num_threads_ + kWarpLanes - 1) / kWarpLanes, 0u);
  if (order_ == Order::seeded) {
    random_state_ = mix(seed_, block);
    make_order(order_of_threads_, num_threads_);
  }
  if (race_fibers_) {
    main_race_fiber_ = race::current_fiber();
    begin_token_ = race::new_token();
    end_token_ = race::new_token();
    race::release(begin_token_);
  }

  running_block = this;
  CudaThread& first = *pick();
  start(first);
  make_current(first);
  emulator_switch(&main_stack_pointer_, first.stack_pointer);
  running_block = nullptr;

  if (race_fibers_) {
    race::acquire(end_token_);
    race::delete_token(begin_token_);
    race::delete_token(end_token_);
  }
  const char* side = touched_guard();
  if (failure_.message.empty() && side != nullptr) {
    failure_.message = where() + " writes " + side + " its " + std::to_string(grid_->dynamic_bytes) +
                       " bytes of dynamic shared memory";
  }
  if (failure_.message.empty()) return true;
  stacks_.take_back();
  delete_race_fibers();  // they are in the midst of what was given up
  return false;
}

void BlockRunner::delete_race_fibers() {
  for (int i = 0; race_fibers_ && i < kMaxBlockThreads; ++i) {
    if (race_fibers_of_[i] != nullptr) race::delete_fiber(race_fibers_of_[i]);
    race_fibers_of_[i] = nullptr;
  }
}

void BlockRunner::set_block(int64_t block) {
  const uint64_t x = grid_->grid.x;
  const uint64_t y = grid_->grid.y;
  const uint64_t b = static_cast<uint64_t>(block);
  ::blockIdx = uint3{static_cast<unsigned>(b % x), static_cast<unsigned>(b / x % y), static_cast<unsigned>(b / x / y)};
}

// What a block before left in shared memory must not be of use to anybody.
void BlockRunner::fill_shared() {
  for (const SharedVariable& variable : grid_->kernel->shared) {
    fill_unseen(reinterpret_cast<uintptr_t>(address_of(variable)), variable.bytes);
  }
  fill_unseen(dynamic_shared_begin(), grid_->dynamic_bytes);
}

const char* BlockRunner::touched_guard() const {
  const uintptr_t begin = dynamic_shared_begin();
  if (!is_untouched(begin - kGuardBytes)) return "before";
  return is_untouched(begin + grid_->dynamic_bytes) ? nullptr : "behind";
}

void BlockRunner::start(CudaThread& thread) {
  if (race_fibers_) {
    // ThreadSanitizer must see one thread only on a stack.
    if (race_fibers_of_[thread.number] == nullptr) {
      race_fibers_of_[thread.number] = race::new_fiber();
      thread.stack_top = stacks_.take();
    }
  } else {
    thread.stack_top = stacks_.take();
  }
  thread.stack_pointer = new_stack_pointer(thread.stack_top, &BlockRunner::fiber_main);
}

void BlockRunner::switch_race_fiber(CudaThread& thread) { race::switch_to_fiber(race_fibers_of_[thread.number]); }

void BlockRunner::fiber_main() {
  BlockRunner& block = *running_block;
  do {
    if (block.race_fibers_) race::acquire(block.begin_token_);
    block.grid_->body->run_thread();
    if (block.race_fibers_) race::release(block.end_token_);
  } while (block.finish());
  __builtin_unreachable();
}

bool BlockRunner::finish() {
  CudaThread& me = *current_;
  me.state = ThreadState::returned;
  ++num_returned_;
  CudaThread* next = pick();
  if (next == nullptr) {
    if (num_returned_ != num_threads_) deadlock();
    if (!race_fibers_) stacks_.give(me.stack_top);
    leave();
  }
  if (next->state == ThreadState::unstarted && !race_fibers_) {
    next->stack_top = me.stack_top;
    next->state = ThreadState::ready;
    make_current(*next);
    return true;
  }
  // Nothing uses this stack before it is left.
  if (!race_fibers_) stacks_.give(me.stack_top);
  switch_to(me, *next);
  __builtin_unreachable();
}

void BlockRunner::leave() {
  if (race_fibers_) race::switch_to_fiber(main_race_fiber_);
  void* nowhere = nullptr;
  emulator_switch(&nowhere, main_stack_pointer_);
  __builtin_unreachable();
}

// Nothing is destroyed on the stacks that are left, so `what` gives its memory away.
void BlockRunner::fail(std::string what, cudaError_t error) {
  {
    const race::Ignored ignored;
    failure_ = {where() + ": " + what, error};
    std::string().swap(what);
  }
  leave();
}

void BlockRunner::fail_for_fault() {
  const uint3& i = current_->index;
  fail("thread (" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) +
           ") touches memory that it must not: " + describe_device_address(fault_).text,
       cudaErrorIllegalAddress);
}

uint64_t BlockRunner::random() {
  // xorshift64 (Marsaglia 2003)
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

void BlockRunner::make_order(uint16_t* numbers, int count) {
  for (int i = 0; i < count; ++i) {
    numbers[i] = static_cast<uint16_t>(order_ == Order::reversed ? count - 1 - i : i);
  }
  if (order_ != Order::seeded) return;
  for (int i = count - 1; i > 0; --i) std::swap(numbers[i], numbers[random() % static_cast<uint64_t>(i + 1)]);
}

}  // namespace emulator
