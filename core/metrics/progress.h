// The line that shows how training goes: step, loss, learning rate, gradient norm, tokens/s, TFLOP/s and its share of
// the machine's peak, memory, time left.
#pragma once

#include <cstdint>
#include <string>

#include "core/metrics/console.h"
#include "core/metrics/metrics_log.h"

namespace trireme {

// `num_ranks` turns tflops_per_rank into the machine's; nothing is shown for a value that is 0 because unknown.
std::string progress_text(const StepMetrics& metrics, int64_t num_steps, int num_ranks, double seconds_left);

// A live line on a terminal; elsewhere one plain line for each step that is shown. Not thread-safe.
class ProgressLine {
 public:
  ProgressLine(Console& console, int64_t num_steps, int num_ranks);
  ~ProgressLine();

  // Time left follows a running mean of step_seconds; the first step, which warms up, doesn't count when there are
  // others.
  void show(const StepMetrics& metrics);
  void end();  // leaves the last live line standing

 private:
  Console& console_;
  int64_t num_steps_;
  int num_ranks_;
  int64_t num_shown_ = 0;
  double mean_seconds_ = 0;
};

}  // namespace trireme
