// Runs the built program as a user would, and keeps what it said.
#pragma once

#include <string>
#include <vector>

namespace trireme::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + the signal's number where one ended it
  std::string out;     // standard output
  std::string err;     // standard error
};

// A shell command line; TRIREME in it stands for the program's path.
ProgramResult run_program(const std::string& command_line);

// "mpirun -np N" with what this machine needs.
std::string mpirun(int ranks);

// The number of times that `part` stands in `text`.
int count_of(const std::string& text, const std::string& part);

}  // namespace trireme::testing
