// Streams and the threads that serve them. A stream gets a thread with its first operation; when it has been destroyed
// and its last operation is done, the thread serves another stream. Threads are never joined: that would order what
// cudaStreamDestroy does not.
#pragma once

#include <string>
#include <vector>

#include "tests/emulator/operation.h"
#include "tests/emulator/protection.h"

struct CUstream_st final : emulator::Counted {
  static constexpr uint64_t kMagic = 0x7374726561bd31ULL;

  CUstream_st(int device_in, int number_in);
  ~CUstream_st() override;

  std::atomic<uint64_t> magic{kMagic};
  const int device;
  const int number;  // for reports

  emulator::HiddenMutex mutex;  // for all but `done`
  std::vector<std::unique_ptr<emulator::Operation>> queue;
  uint64_t num_submitted = 0;
  bool has_thread = false;
  bool sleeping = false;
  bool destroyed = false;
  emulator::Ref<emulator::Graph> capture;  // what is being captured, or nothing
  bool capture_broken = false;
  bool capture_relaxed = false;   // allocations may go on meanwhile
  const char* running = nullptr;  // the operation's name
  std::string waits_for;

  std::atomic<uint32_t> wake{0};
  emulator::Progress done;  // operations
  char* const done_token;   // released by each
};

namespace emulator {

using Stream = CUstream_st;

class HelperThread;

class StreamThread {
 public:
  // Of the calling host thread; null when it serves no stream.
  static StreamThread* current();

  void run_nested(Operation& operation);
  Stream& stream() { return *stream_; }
  // The second thread for blocks of launches; made at the first call.
  HelperThread& helper();

 private:
  friend void serve(Ref<Stream> stream);
  void main();
  void serve_stream();
  bool take_batch(std::vector<std::unique_ptr<Operation>>& batch);
  bool queue_is_empty();
  void run(Operation& operation);

  Ref<Stream> stream_;
  ThreadAccess access_;
  HelperThread* helper_ = nullptr;
  std::atomic<uint32_t> has_stream_{0};
};

// Streams: all are known to a list, so that a device can be waited for.
Ref<Stream> make_stream(int device);
// The stream of a handle, null when it is none. The null stream isn't one.
Stream* find_stream(cudaStream_t handle);
// Queues the operation, or captures it.
void enqueue(Stream& stream, std::unique_ptr<Operation> operation);
// Sleeps until all that was queued is done; then what it did comes before what the caller does. Reports stalls.
void wait_for_stream(Stream& stream);
void wait_for_device(int device);
// As Progress::wait, but with reports of stalls.
void wait_watched(Progress& progress, uint64_t target);
// Gives up the handle's count; the thread ends when the queue is empty.
void destroy_stream(Stream& stream);
bool any_capture(int device);
// Whether one forbids the device's other users to allocate.
bool any_strict_capture(int device);
// Whether the stream is being captured; that capture has failed then.
bool break_capture(Stream& stream);

}  // namespace emulator
