#include "launcher/profiler.h"

#include <algorithm>
#include <utility>

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
  // Host memory travels on a thread of its own, which only the flight recorder sees.
  if (rank_.data().backend() != "nccl") {
    for (const FlightRecord& record : rank_.recorder().records()) {
      if (record.step < first || record.finished == FlightRecord::kNotYet) continue;
      tracer_.add("group " + record.group, comm_op_name(record.op), record.started, record.finished, record.bytes);
    }
  }
  tracer_.write(file_);
}

}  // namespace trireme
