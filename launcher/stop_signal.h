// SIGTERM and SIGINT ask the run to stop after the current step.
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
