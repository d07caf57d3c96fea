#include "tests/emulator/settings.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/emulator/hidden.h"

namespace emulator {

namespace {

[[noreturn]] void refuse(const char* variable, const char* value, const char* expected) {
  std::fprintf(stderr, "emulator: %s is '%s', expected %s\n", variable, value, expected);
  std::exit(2);
}

int64_t read_number(const char* variable, int64_t otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == 0) return otherwise;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (*end != 0 || value < 0) refuse(variable, text, "a number");
  return value;
}

Settings* read_environment() {
  auto* s = new Settings;
  s->num_devices = static_cast<int>(std::min<int64_t>(read_number("TRIREME_EMULATED_GPUS", 0), kMaxDevices));
  s->memory_limit = read_number("TRIREME_EMULATOR_MEMORY", s->memory_limit >> 20) << 20;
  s->shared_limit =
      static_cast<int>(std::min<int64_t>(read_number("TRIREME_EMULATOR_SHARED", 227) << 10, kMostSharedBytes));
  s->num_workers = static_cast<int>(std::clamp<int64_t>(read_number("TRIREME_EMULATOR_WORKERS", 2), 1, 2));
  if (const char* order = std::getenv("TRIREME_EMULATOR_ORDER"); order != nullptr && *order != 0) {
    if (std::strcmp(order, "reversed") == 0) {
      s->order = Order::reversed;
    } else if (std::strcmp(order, "forward") != 0) {
      s->order = Order::seeded;
      s->seed = static_cast<uint64_t>(read_number("TRIREME_EMULATOR_ORDER", 1));
    }
  }
  if (const char* races = std::getenv("TRIREME_EMULATOR_RACES"); races != nullptr && *races != 0) {
    if (std::strcmp(races, "blocks") == 0) {
      s->races = Races::blocks;
    } else if (std::strcmp(races, "streams") != 0) {
      refuse("TRIREME_EMULATOR_RACES", races, "streams or blocks");
    }
  }
  return s;
}

struct Handlers {
  HiddenMutex mutex;
  Handler failure;
  Handler stall;
};

Handlers& handlers() {
  static Handlers* all = new Handlers;
  return *all;
}

}  // namespace

Settings& settings() {
  static Settings* all = read_environment();
  return *all;
}

Tallies& tallies() {
  static Tallies* all = new Tallies;
  return *all;
}

void report_failure(const std::string& message) {
  Handler handler;
  {
    HiddenLock lock(handlers().mutex);
    handler = handlers().failure;
  }
  if (handler) return handler(message);
  std::fprintf(stderr, "emulator: %s\n", message.c_str());
  std::fflush(stderr);
  std::abort();
}

void report_stall(const std::string& message) {
  Handler handler;
  {
    HiddenLock lock(handlers().mutex);
    handler = handlers().stall;
  }
  if (handler) return handler(message);
  std::fprintf(stderr, "emulator: %s\n", message.c_str());
}

void set_num_devices(int count) { settings().num_devices = std::clamp(count, 0, kMaxDevices); }
void set_driver_version(int version) { settings().driver_version = version; }
void set_memory_limit(int64_t bytes) { settings().memory_limit = bytes; }
void set_shared_limit(int bytes) { settings().shared_limit = std::min(bytes, kMostSharedBytes); }
void set_order(Order order, uint64_t seed) {
  settings().order = order;
  settings().seed = seed;
}
void set_workers(int count, int64_t least_threads) {
  settings().num_workers = std::clamp(count, 1, 2);
  settings().least_threads = least_threads;
}
void set_races(Races races) { settings().races = races; }

void set_failure_handler(Handler handler) {
  HiddenLock lock(handlers().mutex);
  handlers().failure = std::move(handler);
}

void set_stall_handler(double seconds, Handler handler) {
  settings().stall_seconds = seconds;
  HiddenLock lock(handlers().mutex);
  handlers().stall = std::move(handler);
}

Counters counters() {
  const Tallies& t = tallies();
  return Counters{.launches = t.launches,
                  .operations = t.operations,
                  .streams = t.streams,
                  .events = t.events,
                  .graphs = t.graphs,
                  .graph_launches = t.graph_launches,
                  .host_waits = t.host_waits,
                  .frees = t.frees,
                  .allocations = t.allocations,
                  .allocated_bytes = t.allocated_bytes,
                  .pinned_bytes = t.pinned_bytes,
                  .profiler_starts = t.profiler_starts,
                  .profiler_stops = t.profiler_stops};
}

}  // namespace emulator
