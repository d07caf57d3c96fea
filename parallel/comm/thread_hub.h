// The meeting place behind ThreadWorld: queues of calls, the matching of them, and the copying.
//
// Each rank of a group has a queue of calls; only its first call is active. A collective runs when it is
// active on every rank of the group, a transfer when its send and its receive are both active. The thread that
// makes a call active does the work that has thereby become possible.
// Thread safety: one mutex guards all queues; tensors are copied and reduced outside it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/thread_world.h"

namespace trireme {

struct ThreadGroup;

// One rank's call. Guarded by the hub's mutex, except `call`, which is constant while the work runs.
struct PendingCall {
  CommCall call;
  std::shared_ptr<ThreadGroup> group;
  int rank = 0;  // in the group
  FlightRecorder* recorder = nullptr;
  bool active = false;
  int num_running = 0;  // threads that are touching the tensors
  bool done = false;
  bool failed = false;
  ExitCode error_code = ExitCode::peer;  // peer or bug
  std::string error;

  // Grouped point-to-point.
  std::vector<bool> matched;  // by transfer
  int64_t num_unfinished = 0;

  // Splitting a group travels as a barrier that carries these.
  bool is_split = false;
  std::vector<int> split_ranks;
  std::string split_name;
  std::shared_ptr<ThreadGroup> split_group;

  std::string str() const;
};
using PendingPtr = std::shared_ptr<PendingCall>;

struct ThreadGroup {
  std::string name;
  std::vector<int> world_ranks;
  std::vector<std::deque<PendingPtr>> queues;  // by rank of the group
  int num_active_collectives = 0;              // ranks whose active call is a collective
};

class ThreadHub {
 public:
  ThreadHub(int size, ThreadWorldOptions options);
  ~ThreadHub();

  int size() const { return size_; }
  std::shared_ptr<ThreadGroup> world_group() const { return world_; }

  // Queues the call and does what has become possible.
  void submit(const PendingPtr& pending);
  // Blocks until the call is done; throws its error.
  void wait(const PendingPtr& pending);
  bool done(const PendingPtr& pending);
  // For a handle that is dropped while an exception unwinds: nobody touches the call's tensors afterwards.
  void abandon(const PendingPtr& pending);

  void add_member(int world_rank);
  void remove_member(const std::shared_ptr<ThreadGroup>& group, int rank);
  void abort(const std::string& reason);
  bool aborted();

 private:
  // Work that has become possible, done outside the mutex.
  struct Job {
    std::vector<PendingPtr> collective;        // all ranks' calls in rank order, or
    PendingPtr sender, receiver;               // one transfer:
    size_t send_index = 0, receive_index = 0;  // places in their lists
  };
  using Clock = std::chrono::steady_clock;
  using Lock = std::unique_lock<std::mutex>;

  void activate_next(ThreadGroup& group, int rank);
  void match_transfer(const PendingPtr& pending, size_t index);
  void run_jobs(Lock& lock);
  void run_collective(Lock& lock, const std::vector<PendingPtr>& calls);
  void run_transfer(Lock& lock, const Job& job);
  void finish_later(Lock& lock, std::vector<PendingPtr> finished);
  void finish(const PendingPtr& pending);
  void fail(const std::vector<PendingPtr>& calls, const std::string& what);
  void abort_locked(const std::string& reason);
  void check_deadlock();
  void run_timer();
  std::string waiting_text() const;

  const int size_;
  const ThreadWorldOptions options_;
  std::shared_ptr<ThreadGroup> world_;

  std::mutex mutex_;
  std::condition_variable idle_;                                // a call has stopped running
  std::vector<std::unique_ptr<std::condition_variable>> wake_;  // by world rank: one of its calls is done
  std::vector<std::weak_ptr<ThreadGroup>> groups_;
  std::deque<Job> jobs_;
  int num_busy_ = 0;                 // threads inside run_jobs
  std::vector<PendingPtr> waiting_;  // by world rank: what it waits for
  std::vector<int> num_members_;     // by world rank: living communicators
  bool aborted_ = false;
  std::string abort_reason_;

  // Delayed results.
  std::multimap<Clock::time_point, std::vector<PendingPtr>> delayed_;
  std::condition_variable timer_wake_;
  bool stop_ = false;
  std::thread timer_;
};

}  // namespace trireme
