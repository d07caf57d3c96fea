#include "core/device/cuda/cuda_stream.h"

#include <cstring>

#include "core/device/cuda/check.h"

namespace trireme::cuda {

EventPool::~EventPool() {
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

cudaEvent_t EventPool::take() {
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  check(cudaSetDevice(device_), "make cuda:" + std::to_string(device_) + " current");
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timed_ ? cudaEventDefault : cudaEventDisableTiming), "create an event");
  return event;
}

void EventPool::give(cudaEvent_t event) {
  std::lock_guard lock(mutex_);
  free_.push_back(event);
}

void CudaEvent::synchronize() { check(cudaEventSynchronize(event_), "finish the work before an event"); }

bool CudaEvent::done() {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) return false;
  check(status, "finish the work before an event");
  return true;
}

double CudaEvent::seconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, static_cast<const CudaEvent&>(earlier).event_, event_),
        "read the time between two events");
  return static_cast<double>(milliseconds) * 1e-3;
}

CudaStream::CudaStream(int device, Allocator& memory, Allocator& pinned, ThreadPool& pool, StreamPriority priority)
    : Stream(Device{DeviceType::cuda, device}, memory, pool),
      pinned_(pinned),
      events_(std::make_shared<EventPool>(device, /*timed=*/false)),
      timed_events_(std::make_shared<EventPool>(device, /*timed=*/true)) {
  activate();
  int lowest = 0;
  int highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "read the priorities of streams");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                     priority == StreamPriority::high ? highest : lowest),
        "create a stream on " + this->device().str());
}

CudaStream::~CudaStream() {
  cudaStreamSynchronize(stream_);
  resources_.clear();
  staged_.clear();
  cudaStreamDestroy(stream_);
}

void CudaStream::activate() const { check(cudaSetDevice(device().index), "make " + device().str() + " current"); }

std::unique_ptr<Event> CudaStream::record_from(const std::shared_ptr<EventPool>& pool) {
  activate();
  auto event = std::make_unique<CudaEvent>(pool);
  check(cudaEventRecord(event->handle(), stream_), "record an event");
  return event;
}

void CudaStream::wait(const Event& event) {
  // Events of a CPU stream are done when they exist.
  const auto* other = dynamic_cast<const CudaEvent*>(&event);
  if (other == nullptr) return;
  activate();
  check(cudaStreamWaitEvent(stream_, other->handle(), 0), "wait for an event");
}

void CudaStream::synchronize() {
  check(cudaStreamSynchronize(stream_), "finish the work queued on " + device().str());
  staged_.clear();
}

void CudaStream::upload(const void* host, void* device_data, int64_t bytes) {
  if (bytes == 0) return;
  activate();
  while (!staged_.empty() && staged_.front().copied->done()) staged_.pop_front();
  Staged staged{pinned_.allocate(bytes, MemoryTag::workspace), nullptr};
  std::memcpy(staged.block->data(), host, static_cast<size_t>(bytes));
  check(cudaMemcpyAsync(device_data, staged.block->data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
        "copy to " + device().str());
  staged.copied = record();
  staged_.push_back(std::move(staged));
}

void CudaStream::download(const void* device_data, void* host, int64_t bytes) {
  if (bytes == 0) return;
  activate();
  check(cudaMemcpyAsync(host, device_data, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "copy from " + device().str());
}

std::unique_ptr<Stream> make_stream(int index, Allocator& memory, Allocator& pinned, ThreadPool& pool,
                                    StreamPriority priority) {
  return std::make_unique<CudaStream>(index, memory, pinned, pool, priority);
}

}  // namespace trireme::cuda
