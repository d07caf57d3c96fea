// `trireme train` and `trireme probe`: a configuration, the ranks, what each of them does.
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <optional>
#include <sstream>

#include "core/config/load.h"
#include "core/metrics/log.h"
#include "core/metrics/run_directory.h"
#include "launcher/commands.h"
#include "launcher/rank_env.h"
#include "launcher/trainer.h"

namespace trireme {

namespace {

// As a rank of MPI where mpirun or srun started this process, else alone.
int run_as_rank(const Config& config, const std::function<int(RankContext&)>& body, const LastWords& last_words = {}) {
  const RankEnv env = find_rank_env();
  std::optional<MpiRuntime> mpi;
  if (env.under_mpi()) mpi.emplace(MpiOptions{.expected_size = env.world_size});
  return run_rank(config, mpi ? &*mpi : nullptr, body, last_words);
}

// What the status of a run says that has failed. Any thread may tell.
class FailedRun {
 public:
  void set(RunStatus status) {
    const std::lock_guard lock(mutex_);
    status_ = std::move(status);
  }
  std::optional<RunStatus> get() {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  std::mutex mutex_;
  std::optional<RunStatus> status_;
};

int train(RankContext& rank, const Config& config, bool dry_run, FailedRun& failed) {
  const int terminal = rank.is_main() ? find_terminal(find_rank_env(), STDERR_FILENO) : -1;
  Console console(STDERR_FILENO, terminal >= 0, terminal);
  Logger logger(rank.rank(), console);
  Trainer trainer(rank, config, console, logger);
  const std::string plan = trainer.plan().str();
  if (dry_run) {
    if (rank.is_main()) std::fputs(plan.c_str(), stdout);
    return 0;
  }
  std::istringstream lines(plan);
  for (std::string text; rank.is_main() && std::getline(lines, text);) console.line(text);
  const StopSignal stop;
  try {
    trainer.run(stop, [&](const std::string& message) {
      failed.set(trainer.status());
      rank.end_program()(ExitCode::peer, message);
    });
  } catch (...) {
    if (trainer.owns_directory()) failed.set(trainer.status());
    throw;
  }
  logger.info("the run is in " + config.run.dir);
  return 0;
}

}  // namespace

int train_command(const TrainArgs& args) {
  const Config config = load_config(args.config, args.sets);
  if (args.dump_config) {
    if (find_rank_env().rank == 0) std::fputs(dump_config(config).c_str(), stdout);
    return 0;
  }
  FailedRun failed;
  const auto last_words = [&](ExitCode code, const std::string& message, const FlightRecorder& calls) {
    std::optional<RunStatus> status = failed.get();
    if (!status) return;
    status->state = RunState::failed;
    status->reason = message;
    status->exit_code = static_cast<int>(code);
    const RunDirectory directory(config.run.dir);
    try {
      directory.write_status(*status);
      directory.write_crash(calls.rank(), "error: " + message + "\nexit code " +
                                              std::to_string(static_cast<int>(code)) + ", after step " +
                                              std::to_string(status->step) + "\nlayout: " + status->layout +
                                              "\n\ncalls of " + calls.dump());
    } catch (const Error&) {
      // The message that was printed is the one that counts.
    }
  };
  return run_as_rank(
      config, [&](RankContext& rank) { return train(rank, config, args.dry_run, failed); }, last_words);
}

int probe_command(const ProbeOptions& options, const std::vector<std::string>& sets) {
  const Config config = probe_config(options, sets);
  return run_as_rank(config, [&](RankContext& rank) {
    probe(rank, config, options);
    return 0;
  });
}

}  // namespace trireme
