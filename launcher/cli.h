// The command line: parses it, runs the command, turns errors into one message and an exit code.
#pragma once

#include <string>
#include <vector>

namespace trireme {

// Returns the process's exit code. Never throws.
int run_command_line(int argc, char** argv);

// Throws ConfigError when these arguments (without the program's name) are not a command line of ours; runs nothing.
void check_command_line(const std::vector<std::string>& arguments);

}  // namespace trireme
