// Proves a schedule before anything runs.
//
// For each rank's program: only chunks of this rank; every microbatch passes each of them exactly once forward and
// (unless forward-only) exactly once through both halves of backward, in a legal order; weight gradients of a chunk come
// in microbatch order; each result that another rank needs is sent exactly once, after it was made, and each input
// is received exactly once, before it is needed, from the right rank; nothing is left over. Between ranks: the k-th
// send meets a receive of the same data. All together: under the semantics of schedule.h every program comes to
// its end.
#pragma once

#include <string>
#include <vector>

#include "parallel/pipeline/schedule.h"

namespace trireme {

struct CheckReport {
  std::string violation;          // the first, in words; empty: the schedule is right
  std::vector<int> peak_stashes;  // by rank; only of a right schedule

  bool ok() const { return violation.empty(); }
};

// Takes any schedule, however broken; never throws.
CheckReport check(const Schedule& schedule);

}  // namespace trireme
