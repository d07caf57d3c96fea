// What a run leaves to read: metrics.jsonl, TensorBoard events, status.json, and the progress line on the screen. Only the
// main rank writes; on the others every call does nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/config/config.h"
#include "core/metrics/progress_line.h"
#include "core/metrics/records.h"
#include "launcher/run_plan.h"

namespace trireme {

class RunReporter {
 public:
  // `first_step`: finished steps of the checkpoint that the run continues from; later rows of metrics.jsonl are cut.
  RunReporter(const Config& config, const RunPlan& plan, int world_size, bool is_main, double peak_flops,
              int64_t first_step);
  ~RunReporter();

  void step(const StepRecord& record);
  void state(const std::string& state, int64_t step, const std::string& reason, int exit_code);

 private:
  struct Files;
  std::unique_ptr<Files> files_;  // none on other ranks
};

}  // namespace trireme
