// When each action of a schedule runs: on a virtual clock, or as it was measured.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/pipeline/schedule.h"

namespace trireme {

// Of each chunk, in any unit of time. A backward takes the sum of its halves.
struct ActionCosts {
  std::vector<double> forward;
  std::vector<double> backward_input;
  std::vector<double> backward_weight;
  double transfer = 0;  // of one transfer; those of one way (schedule.h) run one after the other

  // The same for all chunks.
  static ActionCosts uniform(int num_chunks, double forward, double backward_input, double backward_weight,
                             double transfer = 0);
  double of(const Action& action) const;
};

struct TimedAction {
  Action action;
  double begin = 0;
  double end = 0;
};

struct Timeline {
  Schedule schedule;
  // By rank, in the order of the program. Transfers run beside the computations: a send begins when it can be, and
  // both sides end together.
  std::vector<std::vector<TimedAction>> ranks;

  // Of a rank's computations: (end of the last − begin of the first − work) / work. 0 without work.
  double bubble(int rank) const;
  double max_bubble() const;  // over the ranks
  double end() const;         // of the last action
};

// Runs the programs under the semantics of schedule.h. REQUIRES: check(schedule).ok().
Timeline simulate(const Schedule& schedule, const ActionCosts& costs);

// What a rank waits for that never comes, in words; empty when every program comes to its end.
// REQUIRES: sends and receives meet, and each input is received before the computation that needs it.
std::string find_deadlock(const Schedule& schedule);

}  // namespace trireme
