#include "launcher/profiler.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "core/device/cuda/cuda_device.h"
#include "core/metrics/run_directory.h"

namespace trireme {

namespace {

std::filesystem::path trace_file(const Config& config, int rank) {
  const ProfileConfig& profile = config.profile;
  const std::string suffix = ".rank-" + std::to_string(rank) + ".json";
  if (!profile.trace) {
    return RunDirectory(config.run.dir).traces() / ("step-" + std::to_string(*profile.start) + suffix);
  }
  std::filesystem::path file = *profile.trace;
  if (profile.ranks.size() > 1) file.replace_extension(suffix);
  return file;
}

// What this rank communicated from step `first` on. The ends of NCCL's calls are noted a little later than they happen.
std::vector<FlightRecord> finished_records(const FlightRecorder& recorder, int64_t first) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (;;) {
    std::vector<FlightRecord> records = recorder.records();
    std::erase_if(records, [&](const FlightRecord& record) { return record.step < first; });
    const size_t made = records.size();
    std::erase_if(records, [](const FlightRecord& record) { return record.finished == FlightRecord::kNotYet; });
    if (records.size() == made || std::chrono::steady_clock::now() > deadline) return records;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

Profiler::Profiler(RankContext& rank, const Config& config) : rank_(rank), tracer_(rank.rank()) {
  const ProfileConfig& profile = config.profile;
  const auto& ranks = profile.ranks;
  if (!profile.start || std::find(ranks.begin(), ranks.end(), rank.rank()) == ranks.end()) return;
  first_ = *profile.start;
  last_ = profile.end.value_or(first_);
  file_ = trace_file(config, rank.rank());
  rank_.stream().set_tracer(&tracer_);
}

Profiler::~Profiler() { rank_.stream().set_tracer(nullptr); }

void Profiler::before_step(int64_t step) {
  if (recording_ || first_ == 0 || step < first_ || step > last_) return;
  recording_ = true;
  tracer_.start(rank_.stream());
  cuda::profiler_start();
}

void Profiler::finish() {
  if (!recording_) return;
  recording_ = false;
  const int64_t first = std::exchange(first_, 0);  // one window a run
  rank_.stream().synchronize();
  cuda::profiler_stop();
  tracer_.stop();
  // Communication runs on threads and streams of its own, which the flight recorder sees.
  for (const FlightRecord& record : finished_records(rank_.recorder(), first)) {
    tracer_.add("group " + record.group, comm_op_name(record.op), record.started, record.finished, record.bytes);
  }
  tracer_.write(file_);
}

}  // namespace trireme
