// Traces: what stands in the file that Perfetto opens.
#include "core/trace/tracer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/device/allocator.h"
#include "core/device/thread_pool.h"
#include "tests/unit/data_testing.h"

namespace trireme::testing {
namespace {

using nlohmann::json;

struct Cpu {
  CpuAllocator allocator;
  ThreadPool pool{1};
  CpuStream stream{allocator, pool};
};

// Complete events by name.
std::map<std::string, json> read_ranges(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::map<std::string, json> ranges;
  const json trace = json::parse(in);
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") ranges[event.at("name")] = event;
  }
  return ranges;
}

TEST(Tracer, KeepsNestedRangesBetweenStartAndStop) {
  const TempDir dir;
  Cpu cpu;
  Tracer tracer(3);
  cpu.stream.set_tracer(&tracer);
  { const TraceRange before(cpu.stream, "before"); }
  tracer.start(cpu.stream);
  {
    const TraceRange outer(cpu.stream, "outer");
    const std::string name = "inner";
    const TraceRange inner(cpu.stream, name, 4096);
  }
  tracer.stop();
  { const TraceRange after(cpu.stream, "after"); }
  tracer.write(dir / "traces/a.json");

  const std::map<std::string, json> ranges = read_ranges(dir / "traces/a.json");
  ASSERT_EQ(ranges.size(), 2u);
  const json& outer = ranges.at("outer");
  const json& inner = ranges.at("inner");
  EXPECT_EQ(outer.at("pid"), 3);
  EXPECT_EQ(inner.at("args").at("bytes"), 4096);
  EXPECT_FALSE(outer.contains("args"));
  EXPECT_GE(outer.at("ts").get<double>(), 0);
  EXPECT_LE(outer.at("ts").get<double>(), inner.at("ts").get<double>());
  EXPECT_GE(outer.at("ts").get<double>() + outer.at("dur").get<double>(),
            inner.at("ts").get<double>() + inner.at("dur").get<double>());
}

TEST(Tracer, OthersRangesHaveTracksOfTheirOwn) {
  const TempDir dir;
  Cpu cpu;
  Tracer tracer(0);
  cpu.stream.set_tracer(&tracer);
  tracer.start(cpu.stream);
  { const TraceRange range(cpu.stream, "step"); }
  tracer.stop();
  tracer.add("group data", "all_reduce", 10.0, 10.5, 64);
  const std::filesystem::path file = dir / "b.json";
  tracer.write(file);
  const std::map<std::string, json> ranges = read_ranges(file);
  EXPECT_NEAR(ranges.at("all_reduce").at("dur").get<double>(), 0.5e6, 1);
  EXPECT_NE(ranges.at("all_reduce").at("tid"), ranges.at("step").at("tid"));
}

TEST(Tracer, AFileThatCannotBeWrittenIsNamed) {
  Cpu cpu;
  Tracer tracer(0);
  tracer.start(cpu.stream);
  tracer.stop();
  try {
    tracer.write("/proc/no/such/trace.json");
    FAIL() << "no error";
  } catch (const MachineError& error) {
    EXPECT_NE(std::string(error.what()).find("/proc/no/such"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace trireme::testing
