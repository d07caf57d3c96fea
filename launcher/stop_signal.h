// SIGTERM, SIGINT and SIGUSR1 ask the run to stop after the current step. SIGUSR1 is the one that mpirun passes on to
// its ranks (it answers the others by killing them), and that Slurm sends before the time is up (--signal=USR1@60).
//
// A second request ends the process at once. What follows the first signal within a second is the same request: GNU
// timeout, for one, sends its signal to the process and then to the group that it is in.
//
// Signal handlers need variables of the process; they live in stop_signal.cc and nowhere else.
#pragma once

namespace trireme {

class StopSignal {
 public:
  static constexpr int kSameRequestSeconds = 1;

  StopSignal();   // installs the handlers
  ~StopSignal();  // puts the former ones back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // The signal's number, 0 if none came yet. Each rank asks; they agree on the maximum (see Trainer).
  int received() const;
};

}  // namespace trireme
