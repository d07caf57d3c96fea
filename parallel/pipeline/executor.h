// Runs one rank's program of a schedule. It knows the actions and nothing of any one schedule.
//
// The host goes through the program and queues: computations on `stream`, transfers beside it. A computation waits (on
// the stream) for the receive that it needs; for sends nothing waits until the end of the program, where everything is
// waited for. The host itself waits only as far as the stream and the communicators make it (on the CPU: for receives).
//
// Errors: a program that isn't legal is a BugError (a second forward, an input that was never received, weight
// gradients out of order, another rank's chunk, anything left over at the end); what `work` and the
// communicators throw comes through. After an error the program isn't to be run again: peers may wait for the rest.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/pipeline/pipeline_work.h"
#include "parallel/pipeline/timeline.h"

namespace trireme {

// The ways between the ranks of the pipeline: groups of two, of which rank 0 sends. All tensors that this rank gives to
// another one go through one of them, in both directions there are two.
struct PipelineChannels {
  std::function<Communicator&(int rank)> to;
  std::function<Communicator&(int rank)> from;
};

// When the computations of a program ran, on the device.
class ProgramTimes {
 public:
  void start(Stream& stream);
  void add(const Action& action, Interval interval);
  // Seconds since the program's start. REQUIRES: the stream's work is done.
  std::vector<TimedAction> read() const;

 private:
  struct Entry {
    Action action;
    Interval interval;
  };
  std::unique_ptr<Event> start_;
  std::vector<Entry> entries_;
};

// `times`, if any, is filled anew.
void run_program(const Schedule& schedule, int rank, PipelineWork& work, const PipelineChannels& channels,
                 Stream& stream, ProgramTimes* times = nullptr);

}  // namespace trireme
