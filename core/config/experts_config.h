// The moe section against the model section: what one says of the other, and what doesn't go together.
#pragma once

#include <optional>

#include "core/config/config.h"
#include "core/config/load.h"

namespace trireme {

// Brings the moe section's part of the model into `config.model.experts` (experts that compute nothing, the selection
// bias), and settles what it leaves open: the auxiliary loss's coefficient (`model_coef`: config.json's), and the
// balance of routers that are even by themselves. Refuses moe keys that a dense model has no use for.
void settle_experts(Config& config, const KeyPlaces& places, std::optional<double> model_coef);

// Throws when router, balance, capacity and groups contradict each other; parallel/resolve.h checks expert degrees.
// REQUIRES: settled, finished.
void check_experts(const Config& config, const KeyPlaces& places);

}  // namespace trireme
