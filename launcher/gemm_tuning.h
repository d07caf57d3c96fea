// Which algorithms the matrix products of a run use on GPUs: timed once, in a warm-up before the first step; the same on
// all ranks; recorded in the run directory, and taken up again by a resume, so that its bits are those of a run that
// never stopped.
#pragma once

#include "core/metrics/log.h"
#include "launcher/rank_context.h"
#include "launcher/train_step.h"

namespace trireme {

// Runs a warm-up of `step`. Collective over the world; nothing on the CPU. Weights and states stay.
void tune_gemms(RankContext& rank, const Config& config, TrainStep& step, Logger& logger);

}  // namespace trireme
