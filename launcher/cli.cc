#include "launcher/cli.h"

#include <cstdio>
#include <string>

#include "core/error.h"
#include "launcher/train_command.h"

namespace trireme {

int run_command_line(int argc, char** argv) {
  try {
    if (argc >= 3 && std::string(argv[1]) == "train") {
      TrainOptions options;
      options.config = argv[2];
      for (int i = 3; i + 1 < argc; i += 2) options.sets.push_back(argv[i + 1]);
      return run_train(options);
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fputs("error: no command yet\n", stderr);
  return 2;
}

}  // namespace trireme
