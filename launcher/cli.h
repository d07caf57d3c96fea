// The command line: parses it, runs the command, turns errors into one message and an exit code.
#pragma once

namespace trireme {

// Returns the process's exit code. Never throws.
int run_command_line(int argc, char** argv);

}  // namespace trireme
