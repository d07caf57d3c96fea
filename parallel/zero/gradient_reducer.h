// Sums the gradients of a rank's buckets over the ranks that hold summands, while backward still runs.
//
// What is summed in which order is fixed, so that the bits are: first over data_shard, then over data_replica (of experts:
// expert_shard, expert_replica), then over the other axes over which the gradients of the bucket are partial, then a tied
// table's two uses (first + second, on one rank or on the first and the last pipeline stage). Buffers have no gradients.
// Stages 0 and 1 add up microbatches where the gradients lie and reduce once a step. Stages 2 and 3 reduce-scatter the
// gradients of each microbatch and add the shards in the order of microbatches; what follows data_shard happens once a step,
// on the sum.
//
// Full gradients of stages 2 and 3 are freed when their sum has arrived, which is waited for two units later: that bounds
// the memory, and the allocator sees the same requests in every step. A collective is never started by what a clock or a
// device says, so that all ranks make the same calls in the same order. (Li et al. 2020, "PyTorch Distributed", for the
// overlap; Rajbhandari et al. 2020 for the shards.)
#pragma once

#include <deque>
#include <vector>

#include "parallel/groups.h"
#include "parallel/unit.h"
#include "parallel/zero/bucket.h"
#include "parallel/zero/exposed_time.h"

namespace trireme {

class GradientReducer {
 public:
  // `units`: all of the rank's, in order; each bucket belongs to one of them. All must outlive the reducer. Without
  // `overlap` a collective is waited for where it is started (stages 2 and 3), or started in `finish`; same bits.
  GradientReducer(const std::vector<Unit*>& units, std::vector<Bucket*> buckets, const Groups& groups, bool overlap);

  // Before the first microbatch of a step.
  void begin_step(int64_t num_microbatches);
  // Before the unit writes or adds its gradients of one microbatch.
  void before_unit(size_t unit, Stream& stream);
  // They are complete. Microbatches come in order, units in any.
  void unit_finished(size_t unit, Stream& stream);
  // The same for every unit, where a microbatch ran without saying it. REQUIRES: stage 0 or 1.
  void all_units_finished(Stream& stream);
  // After the last microbatch: all sums are there, in Bucket::gradient_shard, for work queued on `stream` from now on.
  // Returns the time since begin_step for which work on `stream` waited.
  ExposedTime finish(Stream& stream);

 private:
  // A collective under way.
  struct Sum {
    size_t bucket = 0;
    size_t hop = 0;
    int64_t turn = 0;   // when it was started, counted in units
    bool last = false;  // of the last microbatch: what follows data_shard follows it
    WorkHandle work = nullptr;
    Tensor full = {};   // stages 2 and 3: what is summed
    Tensor shard = {};  // and where it goes, to be added to the sum of earlier microbatches; undefined: right there
  };
  struct State {
    Communicator* shards = nullptr;
    std::vector<Communicator*> hops;  // after the shards
    int64_t num_finished = 0;         // microbatches of this step
    bool started = false;             // the last reduction over the shards
  };

  void start_data_sum(size_t bucket, Stream& stream);
  // Starts the sum over hops[hop], if there are so many.
  void start_hop(size_t bucket, size_t hop, Stream& stream);
  Sum take(std::deque<Sum>::iterator place);
  // Waits for a sum and starts what follows.
  void settle(Sum sum, Stream& stream);
  // Settles what was started at least `lag` units ago and holds memory or has a successor.
  void settle_older(int64_t lag, Stream& stream);
  void add_second_uses(Stream& stream);

  std::vector<Bucket*> buckets_;
  Communicator& ends_;
  bool overlap_;
  std::vector<std::vector<size_t>> buckets_of_unit_;
  std::vector<State> states_;
  std::deque<Sum> sums_;  // oldest first
  int64_t num_microbatches_ = 1;
  int64_t turn_ = 0;
  ExposedTime exposed_;
};

}  // namespace trireme
