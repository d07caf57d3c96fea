// What every communicator backend must do, written once against the interface. Each case runs on all ranks
// of a communicator and reports through GoogleTest; `large` cases need memory and time of their own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/device/cuda/cuda_device.h"
#include "core/device/thread_pool.h"
#include "parallel/comm/communicator.h"

namespace trireme {

// A rank's own device, as tests need it.
struct TestDevice {
  CpuAllocator allocator;
  ThreadPool pool{1};
  CpuStream stream{allocator, pool};
};

// The same on GPU `index`.
struct TestGpu {
  explicit TestGpu(int index)
      : allocator(cuda::make_device_allocator(index)),
        pinned(cuda::make_pinned_allocator(index)),
        stream(cuda::make_stream(index, *allocator, *pinned, pool)) {}

  ThreadPool pool{1};
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<Allocator> pinned;
  std::unique_ptr<Stream> stream;
};

struct ConformanceCase {
  std::string name;
  std::function<void(Communicator&, Stream&)> run;
};

// Two of the cases, which have a file of their own.
void test_rank_order(Communicator& comm, Stream& stream);
void test_special_values(Communicator& comm, Stream& stream);

const std::vector<ConformanceCase>& conformance_cases();
const std::vector<ConformanceCase>& large_conformance_cases();  // over 2^31 bytes; for 2 ranks

}  // namespace trireme
