// Sums the gradients of a stage's buckets over the data ranks while the backward pass still runs.
//
// A bucket is ready after the last unit that uses one of its weights has finished its backward_weight; with overlap its
// all-reduce starts there, else in `finish`. Under gradient accumulation only the last microbatch reduces. Results
// are the same bits either way.
#pragma once

#include <vector>

#include "parallel/zero/bucket.h"
#include "parallel/comm/communicator.h"
#include "parallel/unit.h"

namespace trireme {

class GradientReducer {
 public:
  // `units` in stage order; `data` may have one rank. All must outlive the reducer.
  GradientReducer(const std::vector<Unit*>& units, std::vector<Bucket*> buckets, Communicator& data, bool overlap);

  // Before the first microbatch of a step.
  void begin_step();
  // After backward_weight of unit `i`, in the last microbatch only.
  void unit_finished(size_t i, Stream& stream);
  // The same for all units at once, where backward of the last microbatch could not say it one by one.
  void all_units_finished(Stream& stream);
  // After the last microbatch: all gradients are reduced for work queued on `stream` from now on.
  // Returns the time for which compute on `stream` waits: communication that was not hidden.
  Interval finish(Stream& stream);

 private:
  void reduce(size_t bucket, Stream& stream);

  std::vector<Bucket*> buckets_;
  Communicator& data_;
  bool overlap_;
  std::vector<std::vector<size_t>> buckets_of_unit_;
  std::vector<int> num_users_;    // of each bucket: units
  std::vector<int> outstanding_;  // users that have not finished in this step
  std::vector<WorkHandle> pending_;
  std::vector<bool> started_;
};

}  // namespace trireme
