// Learning-rate schedules: each a pure function of the step.
#pragma once

#include <cstdint>

#include "core/config/config.h"

namespace trireme {

// The rate of the update that follows `completed` finished updates, of `total_steps` in all.
//   warm-up:  lr·(completed + 1) / warmup_steps while completed < warmup_steps;
//   constant: lr;
//   linear, cosine: from lr at the end of the warm-up to min_lr at decay_steps (default: total_steps), then min_lr.
//             cosine: min_lr + (lr − min_lr)·(1 + cos π·x)/2 (Loshchilov & Hutter 2017);
//   wsd:      lr until total_steps − decay_steps (default: a tenth of the run), then linear to min_lr (Hu et al. 2024).
double learning_rate(const OptimizerConfig& optimizer, int64_t total_steps, int64_t completed);

}  // namespace trireme
