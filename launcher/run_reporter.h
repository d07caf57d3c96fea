// What a run leaves to read: metrics.jsonl, TensorBoard events, status.json, and the progress line on the screen.
// Only the main rank writes; on the others every call does nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/config/config.h"
#include "core/metrics/log.h"
#include "core/metrics/metrics_log.h"
#include "core/metrics/run_directory.h"
#include "core/metrics/run_lock.h"
#include "launcher/rank_context.h"
#include "launcher/run_plan.h"

namespace trireme {

class RunReporter {
 public:
  // Prepares the run directory (rank 0 makes it, all meet, every rank opens log.txt). Collective over the world.
  // MachineError where it can't be written, or another run is at work in it.
  RunReporter(RankContext& rank, const Config& config, Console& console, Logger& logger);
  ~RunReporter();

  // `finished_steps` of the checkpoint that the run continues from; later rows of metrics.jsonl are cut.
  void begin(int64_t finished_steps, const RunPlan& plan);
  // While the disk is full the row waits for a later call, with a warning.
  void step(const StepMetrics& metrics);
  // MachineError where it can't be written.
  void end(RunState state, int64_t step, const std::string& reason, int exit_code);

 private:
  struct Files;
  void write_running(int64_t finished_steps);
  void write_rows();

  RankContext& rank_;
  const Config& config_;
  Console& console_;
  Logger& logger_;
  RunDirectory directory_;
  std::optional<RunLock> lock_;   // of the main rank
  std::unique_ptr<Files> files_;  // of the main rank, from `begin` on
  std::string layout_;
  std::chrono::steady_clock::time_point status_written_;
  bool disk_fails_ = false;
};

}  // namespace trireme
