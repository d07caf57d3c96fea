// Ranks as threads of one process: the `thread` backend.
//
// A ThreadWorld is the place where the ranks of one run meet. Ranks read and write each other's tensors
// directly; the rank that arrives last does the work of a collective. Nothing is buffered, the calls on a
// communicator run strictly one after the other, and calls that can never be matched are reported: what runs
// here cannot deadlock on a backend with a real network.
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
  // Aborts the world as soon as every rank waits (or is gone) and nothing can proceed.
  // REQUIRES: each rank makes its calls and waits on one thread.
  bool detect_deadlock = true;
  // Seconds by which the result of a call is held back, given the group's name, to play a slow network that
  // costs no processor time. Called by any rank's thread when the ranks have met.
  std::function<double(const std::string&, const CommCall&)> delay_seconds = nullptr;
};

class ThreadWorld {
 public:
  explicit ThreadWorld(int size, ThreadWorldOptions options = {});
  ~ThreadWorld();
  ThreadWorld(const ThreadWorld&) = delete;
  ThreadWorld& operator=(const ThreadWorld&) = delete;

  int size() const;
  // The communicator of all ranks for one of them; once for each rank. A rank counts as gone when the last of
  // its communicators is destroyed.
  std::unique_ptr<Communicator> communicator(int rank, FlightRecorder& recorder);

  // Fails every call under way and every later one with PeerError that tells `reason`.
  void abort(const std::string& reason);
  bool aborted() const;

 private:
  std::shared_ptr<ThreadHub> hub_;
};

// Runs `body` once for each of `size` ranks, each on a thread of its own with a recorder of its own, and
// returns when all are done. When one throws, the others are woken with PeerError; the first exception that
// is not such a consequence is thrown here.
void run_thread_ranks(int size, const std::function<void(Communicator&)>& body, ThreadWorldOptions options = {});

}  // namespace trireme
