// Ranks as threads of a test, each with a whole RankContext.
#pragma once

#include <functional>

#include "launcher/rank_context.h"
#include "parallel/comm/thread_world.h"

namespace trireme {

// Runs `body` on `ranks` ranks at once; the first exception is thrown here.
inline void run_rank_contexts(const Config& config, int ranks, const std::function<void(RankContext&)>& body) {
  run_thread_ranks(ranks, [&](Communicator& world) {
    RankContext rank(config, world, LocalPlace{world.rank(), ranks});
    body(rank);
  });
}

}  // namespace trireme
