// The `profile` section of the configuration: between two steps, what a rank does is kept as a trace, and a profiler that
// waits for cudaProfilerStart (nsys profile --capture-range=cudaProfilerApi, as scripts/profile calls it) records.
#pragma once

#include <filesystem>

#include "core/config/config.h"
#include "core/trace/tracer.h"
#include "launcher/rank_context.h"

namespace trireme {

class Profiler {
 public:
  Profiler(RankContext& rank, const Config& config);
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  // Before the work of a step is queued; steps count from 1. The window's first step waits for the device.
  void before_step(int64_t step);
  bool recording() const { return recording_; }
  // True when `step` is the window's last: the caller finishes all work, then calls `finish`.
  bool ends_with(int64_t step) const { return recording_ && step == last_; }
  // Stops recording and writes the trace, if any. REQUIRES: no work under way.
  void finish();

  const std::filesystem::path& file() const { return file_; }  // of this rank

 private:
  RankContext& rank_;
  Tracer tracer_;
  int64_t first_ = 0;  // 0: this rank isn't traced
  int64_t last_ = 0;
  bool recording_ = false;
  std::filesystem::path file_;
};

}  // namespace trireme
