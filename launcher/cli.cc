#include "launcher/cli.h"

#include <cstdio>

namespace trireme {

int run_command_line(int, char**) {
  std::fputs("error: no command yet\n", stderr);
  return 2;
}

}  // namespace trireme
