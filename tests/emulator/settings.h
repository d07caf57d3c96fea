// What emulator.h has set, read by the parts of the emulator.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "tests/emulator/emulator.h"

namespace emulator {

struct Settings {
  std::atomic<int> num_devices{0};
  std::atomic<int> driver_version{-1};  // -1: 13000 where there are devices, else none
  std::atomic<int64_t> memory_limit{int64_t{4} << 30};
  std::atomic<int> shared_limit{kMostSharedBytes};
  std::atomic<Order> order{Order::forward};
  std::atomic<uint64_t> seed{1};
  std::atomic<int> num_workers{2};
  std::atomic<int64_t> least_threads{4096};
  std::atomic<Races> races{Races::streams};
  std::atomic<double> stall_seconds{60};
};

// The one of this program: devices are the machine's. Lives until the process ends.
Settings& settings();

// Tallies of emulator.h, by whoever makes or ends one.
struct Tallies {
  std::atomic<int64_t> launches{0};
  std::atomic<int64_t> operations{0};
  std::atomic<int64_t> streams{0};
  std::atomic<int64_t> events{0};
  std::atomic<int64_t> graphs{0};
  std::atomic<int64_t> graph_launches{0};
  std::atomic<int64_t> host_waits{0};
  std::atomic<int64_t> frees{0};
  std::atomic<int64_t> allocations{0};
  std::atomic<int64_t> allocated_bytes{0};
  std::atomic<int64_t> pinned_bytes{0};
  std::atomic<int64_t> profiler_starts{0};
  std::atomic<int64_t> profiler_stops{0};
};
Tallies& tallies();

// Reports `message` to the handler, or aborts.
void report_failure(const std::string& message);
void report_stall(const std::string& message);

}  // namespace emulator
