// Memory, and copies between host and devices.
#include <cstring>
#include <new>

#include "tests/emulator/api.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

struct Place {
  int device;   // -1: host
  bool pinned;  // host memory that a device copies from by itself
  bool good;    // for a device: within one allocation
};

Place place_of(const void* data, size_t bytes) {
  const int device = pointer_device(data);
  if (device >= 0) return {device, false, is_device_range(data, bytes)};
  return {-1, is_pinned_range(data, bytes), true};
}

bool fits(cudaMemcpyKind kind, bool to_device, bool from_device) {
  switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

DeviceMask mask_of(const Place& place) { return place.device >= 0 ? device_bit(place.device) : 0; }

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream& stream) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || from == nullptr) return cudaErrorInvalidValue;
  const Place target = place_of(to, bytes);
  const Place source = place_of(from, bytes);
  if (!target.good || !source.good || !fits(kind, target.device >= 0, source.device >= 0)) return cudaErrorInvalidValue;
  const bool capturing = is_capturing(&stream);
  std::unique_ptr<char[]> staged;
  if (target.device >= 0 && source.device < 0 && !source.pinned && !capturing) {
    // The real runtime copies pageable memory to a staging buffer before it returns.
    staged.reset(new char[bytes]);
    const race::Seen seen;
    std::memcpy(staged.get(), from, bytes);
    from = staged.get();
  }
  enqueue(stream, make_copy(to, from, bytes, std::move(staged), mask_of(target) | mask_of(source)));
  // It also waits where the result goes to pageable memory.
  if (target.device < 0 && !target.pinned && !capturing) {
    tallies().host_waits += 1;
    wait_for_stream(stream);
    return device_error(stream.device);
  }
  return cudaSuccess;
}

}  // namespace

}  // namespace emulator

using emulator::api;

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = nullptr;
  return api("cudaMalloc", [&] {
    const int device = emulator::current_device();
    if (emulator::any_strict_capture(device)) return cudaErrorStreamCaptureUnsupported;
    return emulator::allocate_device(device, bytes, data);
  });
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  return api("cudaFree", [&] {
    const int device = emulator::pointer_device(data);
    if (device < 0) return cudaErrorInvalidValue;
    if (emulator::any_capture(device)) return cudaErrorStreamCaptureUnsupported;
    emulator::tallies().frees += 1;
    emulator::wait_for_device(device);
    return emulator::free_device(data);
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api("cudaMemGetInfo", [&] {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, emulator::current_device());
    if (error != cudaSuccess) return error;
    *total = properties.totalGlobalMem;
    *free = emulator::free_device_bytes(emulator::current_device());
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned int) {
  *data = nullptr;
  return api("cudaHostAlloc", [&] { return emulator::allocate_pinned(bytes, data); });
}

cudaError_t cudaFreeHost(void* data) {
  return api("cudaFreeHost", [&] { return emulator::free_pinned(data); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return api("cudaMemcpyAsync", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    return emulator::copy(to, from, bytes, kind, *found);
  });
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return api("cudaMemsetAsync", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (bytes == 0) return cudaSuccess;
    if (!emulator::is_device_range(data, bytes)) return cudaErrorInvalidValue;
    emulator::enqueue(*found,
                      emulator::make_set(data, value, bytes, emulator::device_bit(emulator::pointer_device(data))));
    return cudaSuccess;
  });
}

}  // extern "C"
