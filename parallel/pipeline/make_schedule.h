// The schedules, by name.
//
// All come from one list scheduler: on a clock on which forward and each half of backward take one unit and transfers
// none, each rank takes, whenever it is free, the first of its possible next actions in an order of preference, within a
// bound on what it may keep. What tells the schedules apart is where the chunks lie, those orders and those bounds
// (make_schedule.cc). With m microbatches, p ranks and v chunks on each, and a backward of twice a forward:
//
//   schedule     bubble                    stashes of rank r, at most      from
//   gpipe        (p−1)/m                   m                               Huang et al. 2019
//   1f1b         (p−1)/m                   p − r                           Narayanan et al. 2019
//   interleaved  (p−1)/(v·m), p | m        2(p−1−r) + (v−1)·group + 1      Narayanan et al. 2021
//   zb_h1        (p−1)/(3m), m >= p        p                               Qi et al. 2023, "Zero Bubble"
//   zb_v         0, m >= 2p−1              2p of half-size chunks          Qi et al. 2024, "Controllable Memory"
//
// zb_v lays two chunks on each rank in the shape of a V: chunk c and chunk 2p−1−c are neighbours.
#pragma once

#include <cstdint>
#include <optional>

#include "core/config/config.h"
#include "parallel/pipeline/schedule.h"

namespace trireme {

// `virtual_stages`: chunks on each rank. `microbatch_group` is interleaved's alone: how many microbatches pass a chunk
// before the next chunk of the rank has its turn; nullopt: p. The last group may be smaller.
// REQUIRES: all numbers >= 1; virtual_stages is 2 for zb_v, and 1 for what isn't interleaved (parallel/resolve.h checks
// what users ask for).
Schedule make_schedule(PipelineSchedule kind, int num_ranks, int64_t virtual_stages, int num_microbatches,
                       std::optional<int64_t> microbatch_group = {}, bool forward_only = false);

// Puts the transfers into programs that have none: a send follows at once what made its data; a receive is posted
// one computation before the one that needs it, so that it overlaps, and earlier where the order of the sends
// asks for it.
void add_transfers(Schedule& schedule);

}  // namespace trireme
