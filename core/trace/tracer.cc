#include "core/trace/tracer.h"

#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/formats/atomic_file.h"
#include "core/trace/nvtx.h"

namespace trireme {

namespace {

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

// The rows of one rank in the trace, numbered as they appear.
class Tracks {
 public:
  Tracks(int rank, nlohmann::json& events) : rank_(rank), events_(events) {
    events_.push_back(metadata("process_name", 0, "rank " + std::to_string(rank)));
  }

  void range(const std::string& track, const std::string& name, double begin_seconds, double length_seconds,
             int64_t bytes) {
    nlohmann::json event = {{"ph", "X"},
                            {"pid", rank_},
                            {"tid", id_of(track)},
                            {"name", name},
                            {"ts", begin_seconds * 1e6},
                            {"dur", length_seconds * 1e6}};
    if (bytes >= 0) event["args"] = {{"bytes", bytes}};
    events_.push_back(std::move(event));
  }

 private:
  nlohmann::json metadata(const char* kind, int track, const std::string& name) const {
    return {{"ph", "M"}, {"pid", rank_}, {"tid", track}, {"name", kind}, {"args", {{"name", name}}}};
  }

  int id_of(const std::string& track) {
    const auto [place, added] = ids_.emplace(track, static_cast<int>(ids_.size()));
    if (added) events_.push_back(metadata("thread_name", place->second, track));
    return place->second;
  }

  int rank_;
  nlohmann::json& events_;
  std::map<std::string, int> ids_;
};

}  // namespace

void Tracer::start(Stream& stream) {
  if (stream.asynchronous()) {
    stream.synchronize();  // so that both clocks begin together
    device_start_ = stream.record_time();
  }
  host_start_ = Clock::now();
  keeping_ = true;
}

void Tracer::add(const std::string& track, const std::string& name, double begin_seconds, double end_seconds,
                 int64_t bytes) {
  const auto at = [](double s) {
    return Clock::time_point(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s)));
  };
  const std::lock_guard lock(mutex_);
  kept_.push_back({name, track, bytes, at(begin_seconds), at(end_seconds), {}});
}

void Tracer::write(const std::filesystem::path& file) {
  TRIREME_CHECK(!keeping_, "a trace is written after it was stopped");
  const std::lock_guard lock(mutex_);
  nlohmann::json events = nlohmann::json::array();
  Tracks tracks(rank_, events);
  for (const Kept& kept : kept_) {
    const double begin = seconds(kept.begin - host_start_);
    const bool on_device = kept.device.begin != nullptr;
    tracks.range(on_device ? "host" : kept.track, kept.name, begin, seconds(kept.end - kept.begin), kept.bytes);
    if (on_device) {
      tracks.range(kept.track, kept.name, kept.device.begin->seconds_since(*device_start_), kept.device.seconds(),
                   kept.bytes);
    }
  }
  kept_.clear();
  std::error_code ignored;  // AtomicFile names the path when it isn't there
  std::filesystem::create_directories(file.parent_path(), ignored);
  const std::string text = nlohmann::json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump();
  AtomicFile out(file);
  out.append(std::as_bytes(std::span(text)));
  out.commit();
}

TraceRange::TraceRange(Stream& stream, const char* name, int64_t bytes) : stream_(stream), name_(name), bytes_(bytes) {
  nvtx::push(name, bytes);
  Tracer* tracer = stream.tracer();
  if (tracer == nullptr || !tracer->keeping()) return;
  tracer_ = tracer;
  begin_ = Tracer::Clock::now();
  if (stream.asynchronous() && !stream.recording()) device_begin_ = stream.record_time();
}

TraceRange::~TraceRange() {
  nvtx::pop();
  if (tracer_ == nullptr) return;
  Tracer::Kept kept{name_, stream_.name(), bytes_, begin_, Tracer::Clock::now(), {}};
  if (device_begin_) kept.device = {std::move(device_begin_), stream_.record_time()};
  const std::lock_guard lock(tracer_->mutex_);
  tracer_->kept_.push_back(std::move(kept));
}

}  // namespace trireme
