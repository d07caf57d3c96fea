// Ends a run that stands still, and says which rank is late.
//
// Where a call of a rank has waited longer than the limit, the rank writes its last calls into a directory that all ranks
// share; the others look there every few seconds and do the same. Then the lowest rank that has written compares the
// calls (late_rank_report) and ends the run. Files, because the network may be what stands still, and because a rank that is
// late takes part in no call. A rank that writes nothing is stopped, or its machine is gone.
//
// A watch has a thread of its own, which sleeps between looks.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/flight_recorder.h"

namespace trireme {

class HangWatch {
 public:
  struct Options {
    double timeout = 1800;            // seconds
    std::filesystem::path directory;  // of this run alone, and empty at first; made when it is needed
    int world_size = 1;
    double answer_seconds = 10;  // that the other ranks have to write, beside the time between two looks
  };
  // Called at most once, from the watch's thread. Of all ranks one speaks; the others do a while later, if they still live.
  using Speak = std::function<void(const std::string& message)>;

  // `recorder` outlives the watch.
  HangWatch(const FlightRecorder& recorder, Options options, Speak speak);
  ~HangWatch();
  HangWatch(const HangWatch&) = delete;
  HangWatch& operator=(const HangWatch&) = delete;

 private:
  void run();
  bool sleep(double seconds);  // false: the watch ends
  double look_seconds() const;
  bool stands_still() const;

  const FlightRecorder& recorder_;
  const Options options_;
  const Speak speak_;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ended_ = false;
  std::thread thread_;
};

// What is to be said of a run whose ranks have written `answers`: one message, and below it who waits for whom.
std::string report_hang(const std::vector<RankRecords>& answers, int world_size, double timeout,
                        const std::filesystem::path& directory);

// What a rank writes, and back. Unknown or damaged text: DataError.
std::string to_json(const RankRecords& records);
RankRecords rank_records_from_json(const std::string& text);

}  // namespace trireme
