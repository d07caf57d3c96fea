// SIGTERM, SIGINT and SIGUSR1 ask the run to stop after the current step. SIGUSR1 is the one that mpirun passes on to
// its ranks (it answers the others by killing them), and that Slurm sends before the time is up (--signal=USR1@60).
//
// Signal handlers need a variable of the process; it lives in stop_signal.cc and nowhere else. A second signal ends the
// process at once.
#pragma once

namespace trireme {

class StopSignal {
 public:
  StopSignal();   // installs the handlers
  ~StopSignal();  // puts the former ones back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // The signal's number, 0 if none came yet. Each rank asks; they agree on the maximum (see Trainer).
  int received() const;
};

}  // namespace trireme
