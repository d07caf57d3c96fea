// Data parallelism around the units of a rank: values are gathered before a unit runs and freed after, gradients are
// reduced when they are complete. How much of that happens depends on the stage of the buckets (bucket.h).
//
// A step: begin_step; forward and backward of every microbatch, in any order in which each unit's microbatches come in
// turn; finish; the optimizer's update of the shards; after_update. Evaluations may run between steps. Everything is
// collective over the ranks of the same pipeline stage.
// Thread safety: none; one rank's thread.
#pragma once

#include <vector>

#include "parallel/groups.h"
#include "parallel/unit.h"
#include "parallel/unit_hooks.h"
#include "parallel/zero/bucket.h"
#include "parallel/zero/gradient_reducer.h"
#include "parallel/zero/parameter_gatherer.h"

namespace trireme {

class DataParallel final : public UnitHooks {
 public:
  struct Options {
    bool overlap_grad_reduce = true;
    bool overlap_param_gather = true;
    bool keep_gathered_for_step = false;  // stage 3; see ParameterGatherer
    int64_t prefetch = 1;                 // stage 3: units gathered ahead
  };

  // `units`: all of the rank's, chunk by chunk; `buckets`: of all their weights. All outlive the object.
  DataParallel(const std::vector<Unit*>& units, const std::vector<Bucket*>& buckets, const Groups& groups,
               const Options& options);

  void begin_step(int64_t num_microbatches);
  // All gradients are summed, in Bucket::gradient_shard, for work queued on `stream` from now on. Returns the time since
  // the last call for which work waited for communication.
  ExposedTime finish(Stream& stream);
  // The optimizer has changed the weights' shards.
  void after_update(Stream& stream);

  // For microbatches that run without the hooks (recorded graphs), in stages 0 and 1: the values are there; and one
  // microbatch's gradients of all units are complete.
  void before_plain_microbatch(Stream& stream) { gatherer_.wait_all(stream); }
  void after_plain_microbatch(Stream& stream) { reducer_.all_units_finished(stream); }

  void before_forward(size_t unit, bool with_gradients, Stream& stream) override;
  void after_forward(size_t unit, bool with_gradients, Stream& stream) override;
  void before_backward(size_t unit, Stream& stream) override;
  void after_backward_input(size_t unit, Stream& stream) override;
  void before_backward_weight(size_t unit, Stream& stream) override;
  void after_backward_weight(size_t unit, Stream& stream) override;

 private:
  std::vector<bool> gradients_in_forward_;  // of each unit
  std::vector<bool> reads_values_in_backward_;
  GradientReducer reducer_;
  ParameterGatherer gatherer_;
};

}  // namespace trireme
