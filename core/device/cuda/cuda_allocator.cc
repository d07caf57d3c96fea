// Memory of a GPU and pinned memory of the host, behind the caching allocator.
#include <cuda_runtime.h>

#include "core/device/cuda/check.h"
#include "core/device/cuda/cuda_device.h"

namespace trireme::cuda {

namespace {

// Null when there is no memory. Other errors are those of work that went wrong before.
void* or_null(cudaError_t status, void* data, const char* what) {
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or the next call that asks for errors finds it
    return nullptr;
  }
  check(status, what);
  return data;
}

class DeviceAllocator final : public Allocator {
 public:
  explicit DeviceAllocator(int index) : Allocator(Device{DeviceType::cuda, index}) { require_device(index); }
  ~DeviceAllocator() override { release_cached(); }

 protected:
  void* system_allocate(int64_t bytes) override {
    activate();
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
    return or_null(status, data, "allocate memory");
  }
  void system_free(void* data, int64_t) override {
    activate();
    cudaFree(data);  // waits for the work that uses it
  }

 private:
  void activate() { check(cudaSetDevice(device().index), "make " + device().str() + " current"); }
};

class PinnedAllocator final : public Allocator {
 public:
  explicit PinnedAllocator(int index) : Allocator(Device{}), index_(index) {}
  ~PinnedAllocator() override { release_cached(); }

 protected:
  void* system_allocate(int64_t bytes) override {
    check(cudaSetDevice(index_), "make cuda:" + std::to_string(index_) + " current");
    void* data = nullptr;
    const cudaError_t status = cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocPortable);
    return or_null(status, data, "allocate pinned memory");
  }
  void system_free(void* data, int64_t) override { cudaFreeHost(data); }

 private:
  int index_;
};

}  // namespace

std::unique_ptr<Allocator> make_device_allocator(int index) { return std::make_unique<DeviceAllocator>(index); }
std::unique_ptr<Allocator> make_pinned_allocator(int index) { return std::make_unique<PinnedAllocator>(index); }

}  // namespace trireme::cuda
