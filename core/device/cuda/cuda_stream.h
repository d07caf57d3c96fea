// Streams and events of a GPU.
#pragma once

#include <cuda_runtime.h>

#include <deque>
#include <memory>
#include <mutex>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "core/device/cuda/cuda_device.h"

namespace trireme::cuda {

// Events that are used again and again: making one costs more than recording it. Thread-safe.
class EventPool {
 public:
  EventPool(int device, bool timed) : device_(device), timed_(timed) {}
  ~EventPool();
  cudaEvent_t take();
  void give(cudaEvent_t event);

 private:
  int device_;
  bool timed_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(std::shared_ptr<EventPool> pool) : pool_(std::move(pool)), event_(pool_->take()) {}
  ~CudaEvent() override { pool_->give(event_); }
  void synchronize() override;
  bool done() override;
  double seconds_since(const Event& earlier) const override;
  cudaEvent_t handle() const { return event_; }

 private:
  std::shared_ptr<EventPool> pool_;
  cudaEvent_t event_;
};

class CudaStream final : public Stream {
 public:
  CudaStream(int device, Allocator& memory, Allocator& pinned, ThreadPool& pool, StreamPriority priority);
  ~CudaStream() override;

  std::unique_ptr<Event> record() override { return record_from(events_); }
  std::unique_ptr<Event> record_time() override { return record_from(timed_events_); }
  void wait(const Event& event) override;
  void synchronize() override;
  Allocator& host_allocator() override { return pinned_; }
  bool asynchronous() const override { return true; }

  bool records_graphs() const override { return true; }
  std::unique_ptr<Graph> record_graph(const std::function<void()>& work) override;
  bool recording() const override { return recording_; }

  cudaStream_t handle() const { return stream_; }
  // Makes the stream's GPU current for the calling thread, as launches need.
  void activate() const;

  // Copies between host and device memory in the stream's order. `host` may be any memory: what isn't pinned goes
  // through pinned memory, so that the caller doesn't wait, and may be reused on return of `upload`. `download` of a
  // block that isn't pinned waits.
  void upload(const void* host, void* device, int64_t bytes);
  void download(const void* device, void* host, int64_t bytes);

  // What a library keeps for one stream (handles, workspaces, plans): made at the first call, destroyed with the
  // stream. T is constructed from CudaStream&.
  template <class T>
  T& resource() {
    std::shared_ptr<void>& slot = resources_[std::type_index(typeid(T))];
    if (slot == nullptr) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

 private:
  struct Staged {
    std::shared_ptr<Storage> block;
    std::unique_ptr<Event> copied;
  };

  std::unique_ptr<Event> record_from(const std::shared_ptr<EventPool>& pool);

  Allocator& pinned_;
  cudaStream_t stream_ = nullptr;
  bool recording_ = false;
  std::shared_ptr<EventPool> events_;
  std::shared_ptr<EventPool> timed_events_;
  std::deque<Staged> staged_;  // uploads under way
  std::unordered_map<std::type_index, std::shared_ptr<void>> resources_;
};

// REQUIRES: a stream of a GPU.
inline CudaStream& as_cuda(Stream& stream) { return static_cast<CudaStream&>(stream); }

}  // namespace trireme::cuda
