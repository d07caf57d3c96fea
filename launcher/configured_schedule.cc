#include "launcher/configured_schedule.h"

#include "parallel/pipeline/make_schedule.h"
#include "parallel/resolve.h"

namespace trireme {

Schedule configured_schedule(const ParallelConfig& config, int64_t num_microbatches, bool forward_only) {
  const int64_t virtual_stages = resolve_virtual_stages(config);
  // Of one chunk every schedule gives the same bits; this one keeps one stash.
  const bool one_chunk = config.pipeline == 1 && virtual_stages == 1;
  const bool plain_interleaved = config.schedule == PipelineSchedule::interleaved && virtual_stages == 1;
  const PipelineSchedule kind = one_chunk || plain_interleaved ? PipelineSchedule::one_f_one_b : config.schedule;
  return make_schedule(kind, static_cast<int>(config.pipeline), virtual_stages, static_cast<int>(num_microbatches),
                       config.microbatch_group, forward_only);
}

}  // namespace trireme
