#include "launcher/run_reporter.h"

#include "core/config/load.h"
#include "core/metrics/progress.h"
#include "core/metrics/tensorboard.h"

namespace trireme {

struct RunReporter::Files {
  MetricsLog metrics;
  TensorBoardWriter tensorboard;
  ProgressLine progress;
};

RunReporter::RunReporter(RankContext& rank, const Config& config, Console& console, Logger& logger)
    : rank_(rank), config_(config), console_(console), directory_(config.run.dir) {
  if (rank.is_main()) RunDirectory::create(config.run.dir);
  rank.world().barrier(rank.stream())->wait(rank.stream());
  logger.open_file(directory_.log_file());
}

RunReporter::~RunReporter() = default;

void RunReporter::begin(int64_t finished_steps, const RunPlan& plan) {
  if (!rank_.is_main()) return;
  layout_ = plan.layout;
  directory_.write_config(dump_config(config_));
  files_.reset(new Files{MetricsLog(directory_.metrics_file(), finished_steps),
                         TensorBoardWriter(directory_.tensorboard()),
                         ProgressLine(console_, config_.run.steps, rank_.world_size())});
  directory_.write_status({.state = RunState::running, .step = finished_steps, .layout = layout_});
}

void RunReporter::step(const StepMetrics& metrics) {
  if (!files_) return;
  const bool due = config_.run.log_every > 0 && metrics.step % config_.run.log_every == 0;
  if (!due && !metrics.valid_loss) return;
  files_->metrics.append(metrics);
  files_->tensorboard.write_step(metrics);
  files_->progress.show(metrics);
}

void RunReporter::end(RunState state, int64_t step, const std::string& reason, int exit_code) {
  if (!files_) return;
  files_->progress.end();
  directory_.write_status(
      {.state = state, .step = step, .reason = reason, .exit_code = exit_code, .layout = layout_});
}

}  // namespace trireme
