// Which buckets a unit's weights lie in.
#pragma once

#include <vector>

#include "parallel/unit.h"
#include "parallel/zero/bucket.h"

namespace trireme {

// For each unit the numbers of its buckets in `buckets`, ascending.
std::vector<std::vector<size_t>> buckets_of_units(const std::vector<Unit*>& units, const std::vector<Bucket*>& buckets);

}  // namespace trireme
