// Whether the configured mechanism ran: what the flight recorders and the allocators of a layout's ranks say, against what
// follows from the configuration. A ZeRO 3 that runs as ZeRO 0 gives right numbers, and is red here.
#pragma once

#include <string>
#include <vector>

#include "launcher/layout_run.h"

namespace trireme::layouts {

// A sentence for each thing that isn't as it should be.
std::vector<std::string> check_mechanism(const Config& config, const std::vector<RankRecord>& ranks);

}  // namespace trireme::layouts
