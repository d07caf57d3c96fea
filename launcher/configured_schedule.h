// The pipeline schedule that the configuration asks for.
#pragma once

#include "core/config/config.h"
#include "parallel/pipeline/schedule.h"

namespace trireme {

// For one step, or one evaluation, of `num_microbatches` on each data rank. ConfigError as of resolve_virtual_stages.
Schedule configured_schedule(const ParallelConfig& config, int64_t num_microbatches, bool forward_only);

}  // namespace trireme
