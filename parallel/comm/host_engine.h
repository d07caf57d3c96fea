// The communication thread of a process: advances the calls of all its groups, sleeps when nothing can move.
//
// Each group is a queue; its first call is under way. The groups are advanced in turn, a chunk at a time, so
// that a call that waits for a late rank holds up nobody but its own group.
// Thread safety: all calls may come from any thread, except those marked.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/device_staging.h"
#include "parallel/comm/doorbell.h"
#include "parallel/comm/transport.h"

namespace trireme {

// A call in the engine, and what its `Work` looks at.
class HostCall {
 public:
  // `staged`: where its tensors are on a device.
  explicit HostCall(CommCall call, std::unique_ptr<StagedCall> staged = nullptr)
      : call_(std::move(call)), staged_(std::move(staged)) {}
  CommCall& call() { return call_; }
  StagedCall* staged() { return staged_.get(); }

  void wait();
  bool done();
  // The engine's: the tensors are let go before anybody sees that the call is done.
  void finish();
  void fail(ExitCode code, const std::string& message);

 private:
  CommCall call_;
  std::unique_ptr<StagedCall> staged_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::optional<ExitCode> error_code_;
  std::string error_;
};
using HostCallPtr = std::shared_ptr<HostCall>;

// The calls of one group on this rank. Touched by the communication thread only.
struct HostGroup {
  std::unique_ptr<Transport> transport;
  FlightRecorder* recorder = nullptr;
  std::deque<HostCallPtr> calls;
  std::unique_ptr<HostOp> current;  // of calls.front()
  bool uploading = false;           // current is over, and its results are on the way to the device
  std::string failure;              // of an earlier call; fails all later ones
};

class HostEngine {
 public:
  // Starts the thread, which runs `at_start`; throws what that throws. `at_stop` runs last on the thread.
  HostEngine(const std::function<void()>& at_start, std::function<void()> at_stop);
  // REQUIRES: no calls under way.
  ~HostEngine();
  HostEngine(const HostEngine&) = delete;
  HostEngine& operator=(const HostEngine&) = delete;

  // The bell that other processes ring, if there is shared memory; set in `at_start`, valid until `at_stop` is over.
  void use_doorbell(Doorbell* bell) { bell_.store(bell); }
  Doorbell* doorbell() const { return bell_.load(); }

  void add_group(const std::shared_ptr<HostGroup>& group);
  // Blocks until the group's calls are done.
  void remove_group(const std::shared_ptr<HostGroup>& group);
  void submit(const std::shared_ptr<HostGroup>& group, const HostCallPtr& call);
  // Fails the group's calls and never touches their tensors again.
  void cancel(const std::shared_ptr<HostGroup>& group, const std::string& reason);
  // Runs `task` on the thread; blocks; throws what it throws. The task holds up all groups.
  void run(const std::function<void()>& task);

 private:
  void post(std::function<void()> task);
  void loop();
  bool run_posted();
  bool advance(HostGroup& group);
  static bool needs_polling(const HostGroup& group);
  static void fail_all(HostGroup& group, ExitCode code, const std::string& message);

  Doorbell own_bell_;
  std::atomic<Doorbell*> bell_{&own_bell_};
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> stop_{false};
  std::vector<std::shared_ptr<HostGroup>> groups_;  // the thread's
  std::thread thread_;
};

}  // namespace trireme
