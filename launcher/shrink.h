// A configuration made so small that its layout runs as threads of one process in seconds, with every feature as it was:
// what `verify` runs instead of the model itself.
#pragma once

#include "core/config/config.h"

namespace trireme {

inline constexpr int64_t kMaxShrunkenRanks = 64;

// Degrees above 2 go toward 2, in the order data, context, expert, pipeline, tensor, until there are at most
// kMaxShrunkenRanks ranks; `data: auto` becomes 2. Each chunk has one layer (uneven splits and ends without a layer stay
// what they are), heads and kv-heads go with the tensor degree, and widths, vocabulary, sequence and batch become small:
// what divided still divides, what needed padding still needs it, microbatches that didn't fill the last group still don't.
// A sharding group inside the data ranks stays inside. The optimizer gets the settings under which runs are compared:
// constant learning rate 1e-3, eps 1e-4. Initial weights become larger for the narrow layers.
// Nothing else changes.
//
// The result names every degree; its layout is legal. ConfigError where the given one isn't.
Config shrink(const Config& config);

// Ranks of a configuration that names every degree.
int64_t num_ranks(const ParallelConfig& config);

}  // namespace trireme
