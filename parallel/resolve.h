// From the degrees in the configuration and the number of ranks to a mesh.
#pragma once

#include "core/config/config.h"
#include "parallel/mesh.h"

namespace trireme {

// ConfigError with all degrees, the world size and the nearest legal choice where they don't multiply to it, and where
// parallel.zero_group doesn't divide the data degree. `ranks_per_node` is what zero_group: node goes by; 0: all ranks are
// on one node.
Mesh resolve_mesh(const ParallelConfig& config, int64_t world_size, int64_t rank, int64_t ranks_per_node = 0);

// Number of microbatches per step of each data rank. ConfigError where batch.global doesn't divide by
// data degree × batch.micro, naming the nearest legal values.
int64_t resolve_microbatches(int64_t global, int64_t micro, int64_t data_degree);

}  // namespace trireme
