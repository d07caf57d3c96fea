// Work of emulated libraries (cuBLASLt, NCCL) on an emulated stream: host code as one operation in the stream's order,
// and what it needs to wait for operations of other streams.
//
// Every stream has a host thread of its own, which runs nothing but its operations, in order. So an operation may block
// as long as it likes: only its own stream waits. It must block by the means below, whose locks ThreadSanitizer doesn't
// see: a lock that it sees would order accesses to device memory that nothing orders on a GPU, and hide missing
// waits. What *is* ordered is said with Edge. Code that reads and writes device memory must be compiled with the
// sanitizer's instrumentation; the emulator's own files are compiled without (CMakeLists.txt lists them).
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulator {

// Queues `op`. It runs on the stream's thread, after all that was submitted before, with the memory of all devices
// accessible. While the stream is captured it goes into the graph, and runs at each launch of that: so it must be fit
// to run more than once. `name` is copied; stall reports show it. Returns cudaErrorInvalidResourceHandle for what is no
// stream, or the device's sticky error.
cudaError_t submit(cudaStream_t stream, const char* name, std::function<void()> op);

int stream_device(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);

// The device whose memory `data` lies in, or -1.
int pointer_device(const void* data);
// Whether [data, data + bytes) lies in one living allocation of device memory.
bool is_device_range(const void* data, size_t bytes);

// Ends the operation that the caller is in: reports `message` as emulator.h says, leaves the device with
// cudaErrorLaunchFailure. REQUIRES: on a stream's thread, in an operation.
[[noreturn]] void fail(const std::string& message);

// std::mutex and std::condition_variable, but unseen by ThreadSanitizer.
class HiddenMutex {
 public:
  void lock();
  void unlock();

 private:
  std::atomic<uint32_t> state_{0};  // 1: locked, 2: locked and waited for
};

class HiddenCondition {
 public:
  void wait(HiddenMutex& mutex);
  // False when the time is over.
  bool wait_for(HiddenMutex& mutex, double seconds);
  void notify_all();

 private:
  std::atomic<uint32_t> count_{0};
};

// "What happened before release() happened before what follows acquire()", said to ThreadSanitizer. Releases add up.
// One object for each event of the modelled world: reusing one for the next event orders too much.
class Edge {
 public:
  Edge();
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;
  void release();
  void acquire();

 private:
  char* token_;
};

// Says in stall reports, while it lives, what the operation of this stream's thread waits for: "rank 1 of 2 in
// ncclAllReduce".
class Waiting {
 public:
  explicit Waiting(const std::string& what);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

}  // namespace emulator
