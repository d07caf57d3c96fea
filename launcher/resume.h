// Where a run starts from: a checkpoint of its own, one that the configuration names, given weights, or nothing.
#pragma once

#include <cstdint>
#include <string>

#include "core/config/config.h"
#include "core/formats/file_system.h"
#include "core/metrics/log.h"
#include "launcher/rank_context.h"
#include "launcher/rank_model.h"

namespace trireme {

struct RunStart {
  int64_t step = 0;              // finished updates
  int64_t consumed_samples = 0;  // sequences that they took
  int64_t seed = 0;              // run.seed of the checkpoint
};

// The environment variable in which `trireme launch` names itself to its ranks: the same name means a restart.
inline constexpr const char* kLaunchVariable = "TRIREME_LAUNCH";

// Loads the state that checkpoint.resume and checkpoint.init_from ask for, or initialises it. Collective over the world.
// With `resume: auto` a checkpoint that turns out to be damaged is passed over with a warning, on all ranks alike, for the
// one before it. With `never` or a path a restart of the same launch does so as well, with the checkpoints that are later
// than where the launch began. Checkpoints of run.dir that this course of the run makes void are set aside.
// DataError where none is usable, or it is of another model.
RunStart load_run_start(RankContext& rank, const Config& config, RankModel& model, Logger& logger, FileSystem& files);

}  // namespace trireme
