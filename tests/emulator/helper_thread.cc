#include "tests/emulator/helper_thread.h"

#include <algorithm>
#include <numeric>
#include <thread>

#include "tests/emulator/fault.h"
#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

// Block runners have stacks for 1024 threads each: they are lent for one launch.
struct IdleRunners {
  HiddenMutex mutex;
  std::vector<std::unique_ptr<BlockRunner>> runners;
};

IdleRunners& idle_runners() {
  static IdleRunners* all = new IdleRunners;
  return *all;
}

class Loan {
 public:
  Loan() {
    const bool race_fibers = race::enabled() && settings().races.load() == Races::blocks;
    if (race::enabled()) {
      // Stacks that went from one host thread to another would be races.
      thread_local std::unique_ptr<BlockRunner> own[2];
      std::unique_ptr<BlockRunner>& mine = own[race_fibers ? 1 : 0];
      if (mine == nullptr) mine = std::make_unique<BlockRunner>(race_fibers);
      runner_ = mine.get();
      return;
    }
    {
      HiddenLock lock(idle_runners().mutex);
      if (!idle_runners().runners.empty()) {
        lent_ = std::move(idle_runners().runners.back());
        idle_runners().runners.pop_back();
      }
    }
    if (lent_ == nullptr) lent_ = std::make_unique<BlockRunner>(false);
    runner_ = lent_.get();
  }

  ~Loan() {
    if (lent_ == nullptr) return;
    HiddenLock lock(idle_runners().mutex);
    idle_runners().runners.push_back(std::move(lent_));
  }

  BlockRunner& operator*() const { return *runner_; }

 private:
  std::unique_ptr<BlockRunner> lent_;
  BlockRunner* runner_ = nullptr;
};

}  // namespace

Blocks::Blocks(const Grid& grid, DeviceMask devices, int num_workers)
    : grid_(grid),
      devices_(devices),
      num_workers_(num_workers),
      order_(settings().order.load()),
      seed_(settings().seed.load()),
      alternate_(race::enabled()) {
  const int64_t n = grid.num_blocks();
  chunk_ = std::clamp<int64_t>(n / 32, 1, 16);
  if (order_ == Order::seeded) {
    stride_ = static_cast<int64_t>((seed_ * 0x9E3779B97F4A7C15ULL) >> 33) % n;
    while (std::gcd(stride_, n) != 1) ++stride_;
  }
}

int64_t Blocks::place(int64_t i) const {
  const int64_t n = grid_.num_blocks();
  if (order_ == Order::forward) return i;
  if (order_ == Order::reversed) return n - 1 - i;
  return static_cast<int64_t>((static_cast<unsigned __int128>(i) * static_cast<uint64_t>(stride_) + seed_) %
                              static_cast<uint64_t>(n));
}

void Blocks::work(int worker) {
  Loan loan;
  BlockRunner& runner = *loan;
  runner.begin(grid_, order_, seed_);
  const int64_t n = grid_.num_blocks();
  if (alternate_) {
    for (int64_t i = worker; i < n && failed_.load() == 0; i += num_workers_) {
      if (!runner.run(place(i))) note_failure(runner.failure());
    }
    return;
  }
  while (failed_.load() == 0) {
    const int64_t begin = next_.fetch_add(chunk_);
    if (begin >= n) return;
    for (int64_t i = begin; i < std::min(n, begin + chunk_) && failed_.load() == 0; ++i) {
      if (!runner.run(place(i))) note_failure(runner.failure());
    }
  }
}

void Blocks::note_failure(const Failure& failure) {
  const race::Ignored ignored;
  HiddenLock lock(mutex_);
  if (failure_.message.empty()) failure_ = failure;
  failed_.store(1);
}

Failure Blocks::failure() {
  HiddenLock lock(mutex_);
  return failure_;
}

Failure run_grid(const Grid& grid, DeviceMask devices, StreamThread& thread) {
  const int64_t blocks = grid.num_blocks();
  const bool large = race::enabled() || blocks * grid.num_threads() >= settings().least_threads.load();
  if (blocks == 1 || settings().num_workers.load() == 1 || !large) {
    Blocks all(grid, devices, 1);
    all.work(0);
    return all.failure();
  }
  Blocks all(grid, devices, 2);
  HelperThread& helper = thread.helper();
  char* begin_token = race::new_token();
  char* end_token = race::new_token();
  race::release(begin_token);
  helper.post(all, begin_token, end_token);
  all.work(0);
  helper.finish(/*must_run=*/race::enabled());
  race::acquire(end_token);
  race::delete_token(begin_token);
  race::delete_token(end_token);
  return all.failure();
}

HelperThread& StreamThread::helper() {
  if (helper_ == nullptr) helper_ = HelperThread::start();
  return *helper_;
}

HelperThread* HelperThread::start() {
  auto* helper = new HelperThread;
  std::thread([helper] { helper->main(); }).detach();
  return helper;
}

void HelperThread::post(Blocks& blocks, char* begin_token, char* end_token) {
  blocks_ = &blocks;
  begin_token_ = begin_token;
  end_token_ = end_token;
  state_.store(posted);
  futex_wake(state_, 1);
}

void HelperThread::finish(bool must_run) {
  uint32_t seen = posted;
  if (!must_run && state_.compare_exchange_strong(seen, idle)) return;
  for (int i = 0; i < 1000 && state_.load() != idle; ++i) __builtin_ia32_pause();
  waited_for_.store(1);
  while ((seen = state_.load()) != idle) futex_wait(state_, seen);
  waited_for_.store(0);
}

void HelperThread::main() {
  give_fault_stack();
  race::ignore_begin();
  for (;;) {
    uint32_t seen = state_.load();
    if (seen != posted) {
      futex_wait(state_, seen);
      continue;
    }
    if (!state_.compare_exchange_strong(seen, working)) continue;
    {
      ThreadAccess access;
      access.set(blocks_->devices());
      race::acquire(begin_token_);
      const race::Seen work_is_seen;
      blocks_->work(1);
      race::release(end_token_);
    }
    state_.store(idle);
    if (waited_for_.load() != 0) futex_wake(state_, 1);
  }
}

}  // namespace emulator
