#include <cstdio>

#include "core/config/load.h"
#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/shrink.h"
#include "launcher/verify.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

// The configuration as it is, checked.
Config keep(Config config) {
  if (!config.parallel.data) config.parallel.data = 1;
  const int64_t ranks = num_ranks(config.parallel);
  resolve(config, ranks, 0, ranks);
  resolve_microbatches(config.batch.global, config.batch.micro, *config.parallel.data);
  return config;
}

}  // namespace

int verify_command(const VerifyArgs& args) {
  const Config given = load_config(args.config, args.sets);
  const Config config = args.no_shrink ? keep(given) : shrink(given);
  std::fputs((describe_layout(config) + "\n").c_str(), stdout);
  std::fflush(stdout);
  const VerifyReport report = verify(config);
  std::fputs(report.str().c_str(), stdout);
  return static_cast<int>(report.passed() ? ExitCode::ok : ExitCode::difference);
}

}  // namespace trireme
