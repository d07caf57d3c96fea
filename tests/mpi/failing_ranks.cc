// Ranks that fail in one of several ways, for failing_ranks_test.sh. Prints "last words" where run_rank asks for them.
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "core/error.h"
#include "launcher/rank_context.h"

int main(int, char** argv) {
  using namespace trireme;
  const std::string how = argv[1];
  Config config;
  config.run.device = DeviceChoice::cpu;
  config.model.num_layers = config.model.num_heads = config.model.num_kv_heads = 1;
  MpiRuntime mpi;
  return run_rank(
      config, &mpi,
      [&](RankContext& rank) -> int {
        if (how == "alike") throw DataError({.what = "all find the same"});
        if (how == "peers") throw PeerError({.what = "another rank is late"});
        if (rank.rank() != 2) throw PeerError({.what = "another rank is gone"});
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        throw MachineError({.what = "the cause"});
      },
      [](ExitCode code, const std::string&, const FlightRecorder&) {
        std::printf("last words %d\n", static_cast<int>(code));
        std::fflush(stdout);
      });
}
