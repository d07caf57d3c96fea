// An estimate of what a rank keeps for backward, and of what it holds for a while besides, from the shapes of what the units
// stash (models/). Experts are taken to be evenly loaded, and as many rows to arrive as leave.
#pragma once

#include <cstdint>

#include "core/config/config.h"
#include "core/device/device.h"
#include "core/tensor/dtype.h"
#include "models/transformer.h"
#include "parallel/pipeline/schedule.h"

namespace trireme {

// Bytes. `place`: of a rank of pipeline stage `stage`, in a mesh with the run's expert degrees. Rotary tables, what the
// communicators use and a microbatch's tokens and labels aren't counted.
int64_t plan_activations(const Config& config, const ModelPlace& place, const Schedule& schedule, int stage,
                         DeviceType device, DType compute);

}  // namespace trireme
