// Named ranges of time: what the program does when. They go to NVTX (domain `trireme`), where Nsight Systems shows them
// beside the kernels, and, while a Tracer keeps them, to a JSON file that Perfetto (ui.perfetto.dev) and
// chrome://tracing open. Every device has them.
//
// A range has a place on the host's track (when the calls were made) and, on a GPU, one on the track of its stream
// (when the work ran). Costs nothing that shows in a step while nobody looks: two calls of NVTX for each range.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/device/device.h"

namespace trireme {

// Keeps the ranges of one rank between `start` and `stop`. Streams are told of it with Stream::set_tracer.
// Thread safety: all calls may come from any thread.
class Tracer {
 public:
  explicit Tracer(int rank) : rank_(rank) {}

  // From now on ranges are kept. `stream` names the device's clock: device times count from its present work's end.
  void start(Stream& stream);
  void stop() { keeping_ = false; }
  bool keeping() const { return keeping_; }

  // A range that somebody else has timed, on a track of that name; seconds of the monotonic clock.
  void add(const std::string& track, const std::string& name, double begin_seconds, double end_seconds, int64_t bytes);

  // Writes everything kept and forgets it. REQUIRES: stopped; all work on the traced streams is done.
  // Throws MachineError when the file can't be written.
  void write(const std::filesystem::path& file);

 private:
  friend class TraceRange;
  using Clock = std::chrono::steady_clock;

  struct Kept {
    std::string name;
    std::string track;
    int64_t bytes = -1;
    Clock::time_point begin;
    Clock::time_point end;
    Interval device;  // none on the CPU
  };

  const int rank_;
  std::atomic<bool> keeping_{false};
  std::mutex mutex_;
  Clock::time_point host_start_;
  std::unique_ptr<Event> device_start_;
  std::vector<Kept> kept_;
};

// A range from construction to destruction, for work that is queued on `stream` meanwhile. `name` must live as long.
class TraceRange {
 public:
  TraceRange(Stream& stream, const char* name, int64_t bytes = -1);
  TraceRange(Stream& stream, const std::string& name, int64_t bytes = -1) : TraceRange(stream, name.c_str(), bytes) {}
  // A temporary would be gone before the range ends.
  TraceRange(Stream& stream, std::string&& name, int64_t bytes = -1) = delete;
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  Stream& stream_;
  Tracer* tracer_ = nullptr;  // where this range is kept
  const char* name_;
  int64_t bytes_;
  Tracer::Clock::time_point begin_;
  std::unique_ptr<Event> device_begin_;
};

}  // namespace trireme
