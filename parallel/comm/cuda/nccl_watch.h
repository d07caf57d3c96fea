// A thread that looks at NCCL groups a few times a second while they have calls under way, and sleeps otherwise. It
// finds what no call of ours would: an error while the rank waits on its GPU, a call that stands still.
// Thread safety: all calls may come from any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/comm/cuda/nccl_group.h"

namespace trireme::cuda {

class NcclWatch {
 public:
  explicit NcclWatch(double seconds);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  // Looks at the group as long as it lives.
  void add(const std::shared_ptr<NcclGroup>& group);
  // Something was submitted.
  void wake();

 private:
  void loop();

  const double seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::weak_ptr<NcclGroup>> groups_;
  std::atomic<bool> awake_{false};
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace trireme::cuda
