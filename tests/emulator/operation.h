// What a stream does: copies, launches, marks of events, host code.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/emulator/hidden.h"
#include "tests/emulator/protection.h"

namespace emulator {

class StreamThread;

// Counted by hand: std::shared_ptr's counters are shared with instrumented code and would order threads.
class Counted {
 public:
  virtual ~Counted() = default;
  void take() { count_.fetch_add(1, std::memory_order_relaxed); }
  void give() {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  std::atomic<int> count_{1};
};

template <class T>
class Ref {
 public:
  Ref() = default;
  // Takes over a count.
  static Ref adopt(T* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  Ref(const Ref& other) : object_(other.object_) {
    if (object_ != nullptr) object_->take();
  }
  Ref(Ref&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->give();
  }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

class Operation {
 public:
  // `name` outlives the operation.
  Operation(const char* name, DeviceMask devices) : name_(name), devices_(devices) {}
  virtual ~Operation() = default;
  // On a stream's thread. May throw OperationFailed. More than once, in a graph.
  virtual void run(StreamThread& thread) = 0;
  // Runs even when the device has failed, so that nobody waits for ever.
  virtual bool always() const { return false; }
  virtual const char* name() const { return name_; }  // for reports
  DeviceMask devices() const { return devices_; }     // whose memory it touches

 private:
  const char* name_;
  DeviceMask devices_;
};

struct OperationFailed {
  std::string message;
  cudaError_t error = cudaErrorLaunchFailure;
};

// One record of an event.
struct Mark : Counted {
  Mark();
  ~Mark() override;
  Progress reached;  // 1 when the stream got there
  double seconds = 0;
  int device = -1;
  char* token;
};

// Operations that were captured, in order.
struct Graph : Counted {
  Graph();
  ~Graph() override;
  std::vector<std::unique_ptr<Operation>> operations;
};

std::unique_ptr<Operation> make_record(Ref<Mark> mark);
std::unique_ptr<Operation> make_wait(Ref<Mark> mark);
std::unique_ptr<Operation> make_host(const char* name, std::function<void()> call);
std::unique_ptr<Operation> make_graph_run(Ref<Graph> graph);
// `keep` owns what `from` points to, or nothing.
std::unique_ptr<Operation> make_copy(void* to, const void* from, size_t bytes, std::unique_ptr<char[]> keep,
                                     DeviceMask devices);
std::unique_ptr<Operation> make_set(void* data, int value, size_t bytes, DeviceMask devices);

}  // namespace emulator
