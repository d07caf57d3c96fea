#include <cstdio>

#include "core/config/load.h"
#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/shrink.h"
#include "launcher/verify.h"

namespace trireme {

int verify_command(const VerifyArgs& args) {
  const Config config = shrink(load_config(args.config, args.sets));
  std::fputs((describe_layout(config) + "\n").c_str(), stdout);
  std::fflush(stdout);
  const VerifyReport report = verify(config);
  std::fputs(report.str().c_str(), stdout);
  return static_cast<int>(report.passed() ? ExitCode::ok : ExitCode::difference);
}

}  // namespace trireme
