// The training loop of one rank: data in, steps, evaluation, checkpoints, numbers out, and a clean stop.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "checkpoint/saver.h"
#include "core/config/config.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "launcher/hang_watch.h"
#include "launcher/profiler.h"
#include "launcher/rank_context.h"
#include "launcher/rank_model.h"
#include "launcher/run_plan.h"
#include "launcher/run_reporter.h"
#include "launcher/stop_signal.h"

namespace trireme {

class Trainer {
 public:
  // Checks configuration against world and data, and opens the data; allocates nothing large. Checkpoints are written
  // through `files`.
  Trainer(RankContext& rank, const Config& config, Console& console, Logger& logger, FileSystem& files = local_files());

  const RunPlan& plan() const { return plan_; }

  // From the newest checkpoint (or the beginning) to run.steps, or until a stop signal. Collective over the world.
  // NumbersError on a loss or norm that isn't finite; nothing is saved then. What rank 0 throws stands in status.json.
  // `on_hang`: what a rank says when the run stands still (HangWatch); none: nobody watches.
  void run(const StopSignal& stop, const HangWatch::Speak& on_hang = {});

  // How far it came, for a rank that fails while rank 0 doesn't. Any thread may ask.
  RunStatus status() const { return {.step = finished_steps_, .layout = plan_.layout}; }
  // The run directory is this run's: it could be written, and no other run is at work in it.
  bool owns_directory() const { return reporter_ != nullptr; }

 private:
  using Clock = std::chrono::steady_clock;

  // A step whose work is queued and whose numbers the host has not seen yet.
  struct StepInFlight {
    int64_t step = 0;
    Clock::time_point begin;
    std::vector<HostBatch> batches;
    double lr = 0;
    double data_wait_seconds = 0;
  };

  void train(const StopSignal& stop);
  void end_failed(ExitCode code, const std::string& message);
  int64_t prepare();  // builds the model, loads its state; returns the finished steps
  std::vector<HostBatch> next_batches(Loader& loader, int64_t step) const;
  double evaluate();
  void make_saver();
  void begin_save(int64_t finished_steps);
  // Waits for the save of this step. MachineError where it must succeed and didn't.
  void settle_save(int64_t finished_steps, bool must_succeed);
  void held_up_by_saving(const std::function<void()>& work);
  double peak_flops() const;
  void launch_step(Loader& loader, int64_t step, const StopSignal& stop);
  StepMetrics finish_step(double peak);  // of the oldest step in flight
  void report(StepMetrics metrics);
  void draw(const std::function<void()>& work);
  void finish_trace(Profiler& profiler);
  void draw_timeline(int64_t step);  // of the last finished step
  [[noreturn]] void fail_not_finite(const std::vector<HostMicrobatch>& microbatches, int64_t step);

  RankContext& rank_;
  Config config_;
  Console& console_;
  Logger& logger_;
  FileSystem& files_;
  std::unique_ptr<Dataset> train_data_;
  std::unique_ptr<Dataset> valid_data_;  // none when the run never evaluates
  RunPlan plan_;
  std::unique_ptr<BatchPlan> batches_;
  std::unique_ptr<RankModel> model_;
  std::unique_ptr<RunReporter> reporter_;
  std::unique_ptr<CheckpointSaver> saver_;
  int64_t last_save_ = -1;     // finished steps of the save that was begun last
  double saving_seconds_ = 0;  // for which the loop was held up since the last report
  std::atomic<int64_t> finished_steps_ = 0;
  std::deque<StepInFlight> in_flight_;
  Clock::time_point last_finish_ = {};
  bool stop_asked_ = false;
  std::vector<TimedAction> last_program_;  // of the pipeline stage, in the last finished step
};

}  // namespace trireme
