#include "tests/fault/program.h"

#include <sys/wait.h>

#include <cstdlib>

#include "tests/unit/data_testing.h"

namespace trireme::testing {

ProgramResult run_program(const std::string& command_line) {
  const TempDir dir;
  std::string line = command_line;
  const std::string program = std::string(TRIREME_BINARY_DIR) + "/trireme";
  for (size_t at = line.find("TRIREME"); at != std::string::npos; at = line.find("TRIREME", at + program.size())) {
    line.replace(at, 7, program);
  }
  const std::string whole = "{ " + line + " ; } >'" + (dir / "out") + "' 2>'" + (dir / "err") + "' </dev/null";
  const int status = std::system(whole.c_str());
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(dir / "out");
  result.err = read_file(dir / "err");
  return result;
}

std::string mpirun(int ranks) {
  // Its first choice of how processes prove who they are, munge, waits two seconds for a daemon that few machines have.
  return "env PMIX_MCA_psec=native mpirun --quiet --allow-run-as-root --oversubscribe --bind-to none -np " +
         std::to_string(ranks);
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

}  // namespace trireme::testing
