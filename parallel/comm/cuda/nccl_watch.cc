#include "parallel/comm/cuda/nccl_watch.h"

#include <chrono>

namespace trireme::cuda {

NcclWatch::NcclWatch(double seconds) : seconds_(seconds), thread_([this] { loop(); }) {}

NcclWatch::~NcclWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void NcclWatch::add(const std::shared_ptr<NcclGroup>& group) {
  std::lock_guard lock(mutex_);
  std::erase_if(groups_, [](const auto& old) { return old.expired(); });
  groups_.push_back(group);
}

void NcclWatch::wake() {
  if (awake_.load()) return;
  std::lock_guard lock(mutex_);
  awake_.store(true);
  changed_.notify_all();
}

void NcclWatch::loop() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    changed_.wait(lock, [this] { return stop_ || awake_.load(); });
    changed_.wait_for(lock, std::chrono::duration<double>(seconds_), [this] { return stop_; });
    if (stop_) return;
    // What is submitted from here on wakes the thread again.
    awake_.store(false);
    const std::vector<std::weak_ptr<NcclGroup>> groups = groups_;
    lock.unlock();
    bool busy = false;
    for (const auto& weak : groups) {
      const std::shared_ptr<NcclGroup> group = weak.lock();
      if (group) busy = group->poll() || busy;
    }
    lock.lock();
    if (busy) awake_.store(true);
  }
}

}  // namespace trireme::cuda
