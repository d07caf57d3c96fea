// GPUs of this machine, as the rest of the program sees them: no CUDA header is needed to include this one.
//
// In a program built without CUDA these exist too: there are no devices then, and `require_device` says why.
// Errors: MachineError that names the driver, the library or the device.
#pragma once

#include <memory>
#include <string>

#include "core/device/allocator.h"
#include "core/device/device.h"

namespace trireme::cuda {

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  std::string bus_id;
  int compute_major = 0;
  int compute_minor = 0;
  int num_multiprocessors = 0;
  int64_t memory_bytes = 0;
};

// The number of usable GPUs; 0 where there is no driver or no CUDA in this program. Never throws.
int num_devices();
// Why num_devices() is 0: "no NVIDIA driver was found", "this program was built without CUDA", …; empty otherwise.
std::string why_no_devices();
// Throws MachineError with the reason and a hint unless GPU `index` can be used by this program.
void require_device(int index);
DeviceInfo device_info(int index);

// Memory of the GPU, and pinned memory of the host for copies from and to it.
std::unique_ptr<Allocator> make_device_allocator(int index);
std::unique_ptr<Allocator> make_pinned_allocator(int index);

enum class StreamPriority { normal, high };
// A stream of GPU `index`. The allocators and the pool outlive it.
std::unique_ptr<Stream> make_stream(int index, Allocator& memory, Allocator& pinned, ThreadPool& pool,
                                    StreamPriority priority = StreamPriority::normal);

// Bracket what a profiler records (cudaProfilerStart and -Stop).
void profiler_start();
void profiler_stop();

}  // namespace trireme::cuda
