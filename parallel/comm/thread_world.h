// Ranks as threads of one process: the `thread` backend.
//
// A ThreadWorld is the place where the ranks of one run meet. Ranks read and write each other's tensors
// directly; the rank that arrives last does the work of a collective. Nothing is buffered, calls on a communicator run strictly in
// order, and a call that can never be matched is reported, so that what runs here cannot
// deadlock on a backend with real networks.
// Thread safety: all calls may come from any thread. The world must outlive its communicators.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace trireme {

class ThreadHub;

struct ThreadWorldOptions {
  // A wait that takes longer aborts the world. 0: wait for ever.
  double timeout_seconds = 0;
  // Aborts the world as soon as every rank waits (or is gone) and nothing can proceed. REQUIRES: each rank waits on one
  // thread only.
  bool detect_deadlock = true;
  // Seconds by which the result of a call is held back, to play a slow network. It costs no
  // processor time. Called when the ranks have met, by any rank's thread.
  std::function<double(const Communicator&, const CommCall&)> delay_seconds = nullptr;
};

class ThreadWorld {
 public:
  explicit ThreadWorld(int size, ThreadWorldOptions options = {});
  ~ThreadWorld();
  ThreadWorld(const ThreadWorld&) = delete;
  ThreadWorld& operator=(const ThreadWorld&) = delete;

  int size() const;
  // The communicator of all ranks for one of them; once for each rank. The rank counts as gone when all of its
  // communicators are destroyed.
  std::unique_ptr<Communicator> communicator(int rank, FlightRecorder& recorder);

  // Fails every call under way and every later one with PeerError that tells `reason`.
  void abort(const std::string& reason);
  bool aborted() const;

 private:
  std::shared_ptr<ThreadHub> hub_;
};

// Runs `body` once for each of `size` ranks, each on a thread of its own with a recorder of its own, and returns when all
// are done. When one throws, the others are woken with PeerError; the first exception is thrown here.
void run_thread_ranks(int size, const std::function<void(Communicator&)>& body, ThreadWorldOptions options = {});

}  // namespace trireme
