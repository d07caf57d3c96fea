#include "launcher/run_reporter.h"

#include <chrono>
#include <deque>

#include "core/config/load.h"
#include "core/metrics/progress.h"
#include "core/metrics/tensorboard.h"

namespace trireme {

namespace {

constexpr std::chrono::seconds kStatusEvery(5);  // while it runs

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

struct RunReporter::Files {
  MetricsLog metrics;
  EventWriter tensorboard;
  ProgressLine progress;
  std::deque<StepMetrics> rows = {};  // that are not written yet
  int64_t last_row = 0;               // step of the last one in metrics.jsonl
};

RunReporter::RunReporter(RankContext& rank, const Config& config, Console& console, Logger& logger)
    : rank_(rank), config_(config), console_(console), logger_(logger), directory_(config.run.dir) {
  if (rank.is_main()) {
    RunDirectory::create(config.run.dir);
    lock_.emplace(config.run.dir);
    // What a hang of an earlier run left says nothing about this one.
    std::error_code ignored;
    std::filesystem::remove_all(directory_.hang(), ignored);
  }
  rank.world().barrier(rank.host_stream())->wait(rank.host_stream());
  logger.open_file(directory_.log_file());
}

RunReporter::~RunReporter() = default;

void RunReporter::begin(int64_t finished_steps, const RunPlan& plan) {
  if (!rank_.is_main()) return;
  layout_ = plan.layout;
  directory_.write_config(dump_config(config_));
  files_.reset(new Files{MetricsLog(directory_.metrics_file(), finished_steps),
                         EventWriter(directory_.tensorboard(), now_seconds(), finished_steps),
                         ProgressLine(console_, config_.run.steps, rank_.world_size())});
  write_running(finished_steps);
}

void RunReporter::write_running(int64_t finished_steps) {
  status_written_ = std::chrono::steady_clock::now();
  directory_.write_status({.state = RunState::running, .step = finished_steps, .layout = layout_});
}

namespace {

Scalars scalars_of(const StepMetrics& metrics) {
  Scalars scalars = {{"loss", static_cast<float>(metrics.loss)},
                     {"learning_rate", static_cast<float>(metrics.lr)},
                     {"grad_norm", static_cast<float>(metrics.grad_norm)},
                     {"step_seconds", static_cast<float>(metrics.step_seconds)},
                     {"tokens_per_second", static_cast<float>(metrics.tokens_per_second)},
                     {"mfu", static_cast<float>(metrics.mfu)}};
  if (metrics.prediction_loss) {
    scalars.emplace_back("prediction_loss", static_cast<float>(*metrics.prediction_loss));
  }
  if (metrics.experts) {
    scalars.emplace_back("aux_loss", static_cast<float>(metrics.experts->aux_loss));
    scalars.emplace_back("z_loss", static_cast<float>(metrics.experts->z_loss));
    scalars.emplace_back("router_entropy", static_cast<float>(metrics.experts->router_entropy));
    scalars.emplace_back("expert_imbalance", static_cast<float>(metrics.experts->imbalance));
    scalars.emplace_back("dropped_fraction", static_cast<float>(metrics.experts->dropped_fraction));
  }
  if (metrics.valid_loss) scalars.emplace_back("valid_loss", static_cast<float>(*metrics.valid_loss));
  return scalars;
}

}  // namespace

void RunReporter::step(const StepMetrics& metrics) {
  if (!files_) return;
  const bool due = config_.run.log_every > 0 && metrics.step % config_.run.log_every == 0;
  if (due || metrics.valid_loss) {
    files_->rows.push_back(metrics);
    files_->progress.show(metrics);
  }
  try {
    write_rows();
    if (std::chrono::steady_clock::now() - status_written_ > kStatusEvery) write_running(metrics.step);
    disk_fails_ = false;
  } catch (const MachineError& error) {
    if (!disk_fails_) logger_.warn(std::string(error.what()) + "; the run goes on, and its rows wait");
    disk_fails_ = true;
  }
}

void RunReporter::write_rows() {
  for (; !files_->rows.empty(); files_->rows.pop_front()) {
    const StepMetrics& row = files_->rows.front();
    if (row.step > files_->last_row) files_->metrics.append(row);
    files_->last_row = row.step;
    files_->tensorboard.write(row.time, row.step, scalars_of(row));
  }
}

void RunReporter::end(RunState state, int64_t step, const std::string& reason, int exit_code) {
  if (!files_) return;
  files_->progress.end();
  write_rows();
  directory_.write_status({.state = state, .step = step, .reason = reason, .exit_code = exit_code, .layout = layout_});
}

}  // namespace trireme
