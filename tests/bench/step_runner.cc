#include "tests/bench/step_runner.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "core/trace/tracer.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

// Of all threads of this process.
double processor_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Seconds on `track` of a trace by the first word of a range's name ("forward layer 3"); the head by itself, for its
// forward computes its gradients too.
std::map<std::string, double> sum_by_phase(const json& trace, const std::string& track) {
  std::map<int, std::string> tracks;
  std::map<std::string, double> sums;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "M" && event.at("name") == "thread_name") {
      tracks[event.at("tid").get<int>()] = event.at("args").at("name").get<std::string>();
    }
    if (event.at("ph") != "X" || tracks[event.at("tid").get<int>()] != track) continue;
    const std::string name = event.at("name").get<std::string>();
    const std::string word = name.substr(0, name.find(' '));
    const double seconds = event.at("dur").get<double>() * 1e-6;
    if (name.ends_with(" head")) {
      sums["head"] += seconds;
    } else if (word == "weight") {
      sums["weight gradients"] += seconds;
    } else if (word == "forward" || word == "backward" || word == "recompute" || word == "optimizer") {
      sums[word] += seconds;
    }
  }
  return sums;
}

// The calls of this rank, as its flight recorder has them; nothing for barriers, which only the benchmark makes.
class Calls {
 public:
  // What was recorded since the last time.
  void take(FlightRecorder& recorder) {
    for (const FlightRecord& record : recorder.records()) {
      if (record.op == CommOp::barrier) continue;
      Row& row = rows_[{record.group, comm_op_name(record.op)}];
      ++row.calls;
      row.bytes += record.bytes;
      if (record.finished != FlightRecord::kNotYet) row.seconds += record.finished - record.called;
    }
    recorder.clear();
  }

  // Of a step, on average: the time of calls that compute waits for where it makes them, those of tensor parallelism
  // (without overlap_tensor) and the sums of a few numbers.
  double waited_for_seconds(int64_t steps) const {
    double sum = 0;
    for (const auto& [key, row] : rows_) {
      if (key.first == "tensor" || key.first == "data" || key.first == "world") sum += row.seconds;
    }
    return sum / static_cast<double>(steps);
  }

  // Of a step, on average.
  json table(int64_t steps) const {
    json list = json::array();
    for (const auto& [key, row] : rows_) {
      list.push_back({{"group", key.first},
                      {"op", key.second},
                      {"calls", static_cast<double>(row.calls) / static_cast<double>(steps)},
                      {"bytes", static_cast<double>(row.bytes) / static_cast<double>(steps)},
                      {"seconds", row.seconds / static_cast<double>(steps)}});
    }
    return list;
  }

 private:
  struct Row {
    int64_t calls = 0;
    int64_t bytes = 0;
    double seconds = 0;  // from the call to its end, the wait for other ranks included
  };
  std::map<std::pair<std::string, std::string>, Row> rows_;
};

}  // namespace

double median(std::vector<double> values) {
  TRIREME_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

StepRunner::StepRunner(RankContext& rank, const Config& config)
    : rank_(rank),
      config_(config),
      precision_(resolve_precision(config, rank.stream().device())),
      sequence_(config.data.sequence_length),
      local_batch_(config.batch.global / rank.mesh().data_degree()),
      num_microbatches_(resolve_microbatches(config.batch.global, config.batch.micro, rank.mesh().data_degree())),
      model_(rank, config) {
  model_.model.initialize(rank.stream(), static_cast<uint64_t>(config.run.seed));
  // As the trainer does before the first step: libraries choose algorithms.
  if (rank.stream().asynchronous()) {
    model_.step.warm_up(local_batch_ / num_microbatches_, sequence_, config.data.mask_documents);
  }
}

void StepRunner::draw_tokens() {
  const auto count = static_cast<size_t>(local_batch_ * sequence_);
  tokens_.resize(count);
  labels_.resize(count);
  positions_.resize(count);
  const uint64_t key = random_key(static_cast<uint64_t>(updates_), "tokens");
  const int64_t row = sequence_ + 1;
  const auto draw = [&](int64_t i) {
    return static_cast<int32_t>(uniform_below(key,
                                              static_cast<uint64_t>(rank_.mesh().data_rank() * local_batch_ * row + i),
                                              static_cast<uint64_t>(config_.model.vocab_size)));
  };
  rank_.pool().for_ranges(local_batch_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t t = 0; t < sequence_; ++t) {
        const auto i = static_cast<size_t>(b * sequence_ + t);
        tokens_[i] = draw(b * row + t);
        labels_[i] = draw(b * row + t + 1);
        positions_[i] = static_cast<int32_t>(t);
      }
    }
  });
  microbatches_.clear();
  const int64_t micro = local_batch_ / num_microbatches_;
  for (int64_t m = 0; m < num_microbatches_; ++m) {
    const int64_t offset = m * micro * sequence_;
    microbatches_.push_back(
        {micro, sequence_, tokens_.data() + offset, labels_.data() + offset, positions_.data() + offset, nullptr});
  }
}

void StepRunner::wait_for_all() {
  if (rank_.world_size() > 1) rank_.world().barrier(rank_.host_stream())->wait(rank_.host_stream());
}

StepRunner::Marks StepRunner::launch() {
  Stream& stream = rank_.stream();
  Marks marks;
  marks.begin = stream.record_time();
  model_.step.forward_backward(microbatches_);
  marks.middle = stream.record_time();
  model_.step.update(3e-4, ++updates_);
  // Where ops return when they are done, a step ends when the last rank's does; on GPUs it ends with a collective.
  if (!stream.asynchronous()) wait_for_all();
  marks.end = stream.record_time();
  return marks;
}

void StepRunner::take_numbers(Blocked& blocked) {
  const StepNumbers numbers = model_.step.take_numbers();
  blocked.gradients.push_back(numbers.exposed_comm_seconds);
  blocked.stages.push_back(numbers.bubble_seconds);
  loss_ = numbers.loss;
}

std::vector<double> StepRunner::largest(std::vector<double> values) {
  if (rank_.world_size() > 1) {
    const Tensor shared = Tensor::borrow(values.data(), {std::ssize(values)}, DType::f64);
    rank_.world().all_reduce(shared, ReduceOp::max, rank_.host_stream())->wait(rank_.host_stream());
  }
  return values;
}

json StepRunner::steps(int64_t count) {
  const size_t ahead = rank_.stream().asynchronous() ? 1 : 0;
  std::vector<Marks> marks;
  std::vector<double> queueing;
  Blocked blocked;
  Calls calls;
  rank_.recorder().clear();
  const double processor_begin = processor_seconds();
  for (int64_t i = 0; i < count; ++i) {
    draw_tokens();
    const auto begin = Clock::now();
    marks.push_back(launch());
    queueing.push_back(seconds_since(begin));
    while (model_.step.num_untaken() > ahead) take_numbers(blocked);
    if (ahead == 0) calls.take(rank_.recorder());
  }
  while (model_.step.num_untaken() > 0) take_numbers(blocked);
  rank_.stream().synchronize();
  const double processor = processor_seconds() - processor_begin;

  std::vector<double> seconds;
  std::vector<double> first_half;
  std::vector<double> second_half;
  for (const Marks& m : marks) {
    seconds.push_back(m.end->seconds_since(*m.begin));
    first_half.push_back(m.middle->seconds_since(*m.begin));
    second_half.push_back(m.end->seconds_since(*m.middle));
  }
  json answer = {{"seconds", seconds}, {"loss", loss_}};
  answer["phases"] = {{"forward and backward", median(first_half)},
                      {"clip and optimizer", median(second_half)},
                      {"exposed communication", median(blocked.gradients)}};
  if (ahead > 0) answer["phases"]["host queueing"] = median(queueing);
  const MemoryStats memory = rank_.allocator().stats();
  answer["peak_memory_bytes"] = memory.peak_live_bytes;
  answer["reserved_bytes"] = memory.reserved_bytes;
  if (ahead == 0) {
    const std::vector<double> exposed =
        largest({median(blocked.gradients), median(blocked.stages), calls.waited_for_seconds(count)});
    answer["exposed"] = {
        {"gradients and weights", exposed[0]}, {"stages", exposed[1]}, {"tensor and sums", exposed[2]}};
    answer["communication"] = calls.table(count);
    answer["processor_seconds"] = processor / static_cast<double>(count);
  }
  return answer;
}

json StepRunner::phases() {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("trireme-phases-" + std::to_string(::getpid()) + ".json");
  Stream& stream = rank_.stream();
  Tracer tracer(rank_.rank());
  draw_tokens();
  stream.set_tracer(&tracer);
  tracer.start(stream);
  const Marks marks = launch();
  Blocked blocked;
  take_numbers(blocked);
  stream.synchronize();
  tracer.stop();
  stream.set_tracer(nullptr);
  tracer.write(file);
  const json trace = json::parse(std::ifstream(file));
  std::filesystem::remove(file);

  json phases = sum_by_phase(trace, stream.name());
  double known = blocked.gradients.back();
  for (const auto& [name, seconds] : phases.items()) known += seconds.get<double>();
  const double step = marks.end->seconds_since(*marks.begin);
  phases["exposed communication"] = blocked.gradients.back();
  phases["between"] = std::max(0.0, step - known);  // uploads, label counts, gaps
  return {{"seconds", step}, {"phases", phases}};
}

}  // namespace trireme
