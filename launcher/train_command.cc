#include "launcher/train_command.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "core/config/load.h"
#include "core/metrics/console.h"
#include "core/metrics/log.h"
#include "launcher/rank_context.h"
#include "launcher/stop_signal.h"
#include "launcher/trainer.h"

namespace trireme {

namespace {

// Runs `prepare` before the ranks are connected: every rank would fail in the same way, so only the first one says so.
template <class Prepare>
auto on_first_rank_reports(const LaunchInfo& launch, Prepare&& prepare) {
  try {
    return prepare();
  } catch (const Error& error) {
    if (launch.rank == 0) throw;
    throw PeerError({.what = error.what()});
  }
}

int connect_and_run(const LaunchInfo& launch, const Config& config, const std::function<int(RankContext&)>& body) {
  std::unique_ptr<MpiRuntime> mpi;
  if (launch.under_mpi) mpi = std::make_unique<MpiRuntime>();
  return run_rank(config, mpi.get(), body);
}

}  // namespace

int run_train(const TrainOptions& options) {
  const LaunchInfo launch = detect_launch(::getenv);
  const Config config = on_first_rank_reports(launch, [&] { return load_config(options.config, options.sets); });
  if (options.dump_config) {
    if (launch.rank == 0) std::fputs(dump_config(config).c_str(), stdout);
    return 0;
  }
  const StopSignal stop;
  Console console(STDERR_FILENO, Console::is_terminal(STDERR_FILENO));
  return connect_and_run(launch, config, [&](RankContext& rank) {
    Logger logger(rank.rank(), console);
    Trainer trainer(rank, config, console, logger);
    if (options.dry_run) {
      if (rank.is_main()) std::fputs(trainer.plan().str().c_str(), stdout);
      return 0;
    }
    if (rank.is_main()) console.line(trainer.plan().str());
    trainer.run(stop);
    return 0;
  });
}

int run_probe(const ProbeOptions& options, const std::vector<std::string>& sets) {
  const LaunchInfo launch = detect_launch(::getenv);
  const Config config = on_first_rank_reports(launch, [&] { return probe_config(options, sets); });
  return connect_and_run(launch, config, [&](RankContext& rank) {
    probe(rank, config, options);
    return 0;
  });
}

int run_generate(const GenerateOptions& options) {
  CpuAllocator allocator;
  ThreadPool pool(default_threads(/*local_size=*/1));
  CpuStream stream(allocator, pool);
  generate(stream, options, [](const std::string& piece) {
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  });
  std::fputs("\n", stdout);
  return 0;
}

}  // namespace trireme
