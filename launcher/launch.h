// `trireme launch`: starts the ranks through Open MPI's mpirun, passes signals on, restarts after a crash.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/commands.h"

namespace trireme {

// The command line that starts args.command of `program` as ranks. `as_root`: Open MPI wants to be told.
std::vector<std::string> mpirun_command(const LaunchArgs& args, const std::string& program, bool as_root, int num_gpus);

// Devices of the NVIDIA driver that CUDA_VISIBLE_DEVICES leaves; 0 without a driver.
int count_gpus();

// Runs `command` until it ends, again up to `max_restarts` times when it ended with another code than 0 (done),
// 2 (configuration) and 3 (data), which would only repeat. SIGTERM, SIGINT and SIGUSR1 ask the command once to stop
// cleanly by `stop_signal`; a second request (see StopSignal) ends it. After either it isn't restarted. `say` gets a line
// about each restart. Returns the last exit code, 128 + N for a command that signal N ended. Environment and standard streams are handed
// down, except standard input. REQUIRES: no other thread handles these signals; they are blocked meanwhile.
// Throws MachineError when the command can't be started.
int supervise(const std::vector<std::string>& command, int max_restarts, int stop_signal,
              const std::function<void(std::string_view)>& say);

}  // namespace trireme
