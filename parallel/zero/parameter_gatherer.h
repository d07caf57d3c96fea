// Brings the values of a rank's buckets together from the shards of the data_shard group (of experts: expert_shard), while
// the model runs.
//
// Stages 1 and 2: after an update the changed shards are gathered bucket by bucket in the order in which the next forward
// needs them; each bucket is waited for before its unit first runs. Stage 3: the full values of a unit exist only around
// its use. Their gather is started `prefetch` uses ahead. What comes next is taken from the step before, so that it is
// right for every schedule; where that says nothing (the first step, evaluation), units are expected in their order.
// Only the calls of the program decide, so that all ranks of a group make the same collectives in the same order.
#pragma once

#include <vector>

#include "parallel/groups.h"
#include "parallel/unit.h"
#include "parallel/zero/bucket.h"
#include "parallel/zero/exposed_time.h"

namespace trireme {

class ParameterGatherer {
 public:
  // What a unit's values are read for.
  enum class Pass : uint8_t { forward, backward, evaluation };

  struct Options {
    bool overlap = true;         // off: a gather is waited for where it is started
    bool keep_for_step = false;  // stage 3: freed after the last use in the step, not after each
    int64_t prefetch = 1;        // stage 3: uses ahead
  };

  // `units`: all of the rank's, in order; `buckets`: theirs. All outlive the gatherer.
  ParameterGatherer(const std::vector<Unit*>& units, const std::vector<Bucket*>& buckets, const Groups& groups,
                    const Options& options);
  // Waits for what is under way: it writes to memory of this rank's allocator.
  ~ParameterGatherer();
  ParameterGatherer(const ParameterGatherer&) = delete;
  ParameterGatherer& operator=(const ParameterGatherer&) = delete;

  void begin_step(int64_t num_microbatches);
  // The values of the unit can be read by work queued on `stream` between these two.
  void before_use(size_t unit, Pass pass, Stream& stream);
  void after_use(size_t unit, Pass pass, Stream& stream);
  // Whatever is under way has arrived for work queued on `stream` from now on. Stages 1 and 2: all values can be read.
  void wait_all(Stream& stream);
  // The shards have changed.
  void after_update(Stream& stream);

  // The time since the last call for which work waited.
  ExposedTime take_exposed();

 private:
  struct Use {
    size_t unit = 0;
    Pass pass = Pass::forward;
    bool operator==(const Use&) const = default;
  };
  struct State {
    Communicator* shards = nullptr;
    WorkHandle work;                  // under way and not waited for
    int64_t uses_per_microbatch = 0;  // final ones: those after which a unit reads no more for the microbatch
    int64_t uses_left = 0;            // of them, in this step
  };

  // The next `prefetch` uses, as far as they can be foreseen after `now`.
  std::vector<size_t> next_units(const Use& now) const;
  void start(size_t bucket, Stream& stream);
  void gather(size_t bucket, Stream& stream);
  void wait(size_t bucket, Stream& stream);
  bool is_final(const Use& use) const;

  std::vector<Bucket*> buckets_;  // which have values of their own
  Options options_;
  std::vector<std::vector<size_t>> buckets_of_unit_;
  std::vector<bool> reads_in_backward_;  // of each unit
  std::vector<State> states_;
  std::vector<size_t> gather_order_;  // buckets by their first unit
  // Uses of the step before, and of the one under way; evaluations aside.
  std::vector<Use> last_step_, this_step_;
  Stream* stream_ = nullptr;  // of the last gather
  ExposedTime exposed_;
};

}  // namespace trireme
