// What every communicator backend must do, written once against the interface. Each case runs on all ranks
// of a communicator and reports through GoogleTest; `large` cases need memory and time of their own.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/device/thread_pool.h"
#include "parallel/comm/communicator.h"

namespace trireme {

// A rank's own device, as tests need it.
struct TestDevice {
  CpuAllocator allocator;
  ThreadPool pool{1};
  CpuStream stream{allocator, pool};
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
