// A picture of a pipeline step as it ran: the timeline that `trireme plan` draws from a model, drawn from measurement.
#pragma once

#include <filesystem>
#include <vector>

#include "launcher/rank_context.h"
#include "parallel/pipeline/timeline.h"

namespace trireme {

// Gathers the times of one pipeline, the one of the first data and tensor ranks, on the main rank, which writes
// DIRECTORY/timeline-step-NNNNNNNN.svg and .json (Perfetto). `own`: this rank's, in seconds since its program began; the
// programs of a step begin together, behind the collective that ended the step before. Collective over the world. Returns
// the SVG's path.
std::filesystem::path write_measured_timeline(RankContext& rank, const Schedule& schedule,
                                              const std::vector<TimedAction>& own,
                                              const std::filesystem::path& directory, int64_t step);

}  // namespace trireme
