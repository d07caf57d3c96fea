// Device memory: one range of addresses for each device, cut into allocations. Thread-safe.
//
// Every allocation has pages of its own with a gap behind it. New memory holds bytes 0xFF, NaN in every float format;
// under AddressSanitizer what lies between two allocations is poisoned. Freed pages are inaccessible and their addresses
// are used again as late as possible.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace emulator {

cudaError_t allocate_device(int device, size_t bytes, void** data);
// `data` as allocate_device gave it. REQUIRES: no work uses it.
cudaError_t free_device(void* data);
size_t free_device_bytes(int device);

int pointer_device(const void* data);                  // -1: none
bool is_device_range(const void* data, size_t bytes);  // in one living allocation
// "cuda:0, byte 64 of an allocation of 4096 bytes". For the handler of faults: takes no lock and allocates nothing.
struct AddressText {
  char text[160];
};
AddressText describe_device_address(uintptr_t address);

cudaError_t allocate_pinned(size_t bytes, void** data);
cudaError_t free_pinned(void* data);
// Whether [data, data + bytes) is memory of cudaHostAlloc.
bool is_pinned_range(const void* data, size_t bytes);

}  // namespace emulator
