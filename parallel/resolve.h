// From the configuration and the number of ranks to a layout: the mesh, and how the model is cut into pipeline chunks.
// Every layout that can't run is refused here, before anything is allocated: a ConfigError with what was found, all
// degrees that play a part, and the nearest legal values.
//
// Pure functions, thread-safe. Nothing here takes work or memory that grows with the number of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "core/config/config.h"
#include "parallel/mesh.h"

namespace trireme {

inline constexpr int64_t kUnknownNode = 0;  // for `ranks_per_node`; then `zero_group: node` is refused

// The layout of this rank. Checks the degrees, zero_group, that the tensor degree divides the heads and the expert degree
// the experts, the schedule's settings and the split into chunks. `ranks_per_node`: ranks of one machine; machines hold
// consecutive ranks.
Mesh resolve(const Config& config, int64_t world_size, int64_t rank, int64_t ranks_per_node);

// The degrees and zero_group alone; that there are experts to lay out is not asked. `data: auto` takes the ranks that the
// other degrees leave. With zero 0 the data axis isn't divided and zero_group doesn't matter.
Mesh resolve_mesh(const ParallelConfig& config, int64_t world_size, int64_t rank,
                  int64_t ranks_per_node = kUnknownNode);

// Model chunks of each pipeline rank: virtual_stages, and 2 for zb_v. Refuses what the schedule can't run: several
// chunks under a schedule of one, zb_v with another number than 1 or 2 (both mean 2), and a microbatch_group below the
// pipeline degree, which would make the first rank wait for the last. `interleaved` with one chunk is 1f1b; other
// schedules don't look at microbatch_group.
int64_t resolve_virtual_stages(const ParallelConfig& config);

// Transformer layers of each chunk, pipeline × virtual stages entries, in the order of the model. The first chunk holds
// the embedding besides, the last one the loss head; so a given list may have 0 layers there, and nowhere else. Not given,
// all chunks have equally many, within one.
std::vector<int64_t> resolve_stages(const Config& config);

// Number of microbatches per step of each data rank. ConfigError where batch.global doesn't divide by
// data degree × batch.micro, naming the nearest legal values.
int64_t resolve_microbatches(int64_t global, int64_t micro, int64_t data_degree);

}  // namespace trireme
