// More than 2^31 bytes through each collective, between two threads.
#include <gtest/gtest.h>

#include "parallel/comm/thread_world.h"
#include "tests/parallel/comm_conformance.h"

namespace trireme {
namespace {

// Four tensors of 2 GiB; with a sanitizer's shadow memory that is too much.
#ifndef TRIREME_SANITIZED
TEST(CommLarge, Holds) {
  std::vector<TestDevice> devices(2);
  run_thread_ranks(2, [&](Communicator& comm) {
    for (const ConformanceCase& test : large_conformance_cases()) {
      test.run(comm, devices[static_cast<size_t>(comm.rank())].stream);
    }
  });
}
#endif

}  // namespace
}  // namespace trireme
