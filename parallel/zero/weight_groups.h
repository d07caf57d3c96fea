// Which weights of a unit can share a bucket: those whose gradients are summed over the same axes and whose values are
// split over the same axes. Axes of degree 1 don't matter, so that without tensor parallelism a unit has one bucket.
#pragma once

#include <vector>

#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace trireme {

// In the order of the first weight of each group, and of the weights in it: the same on every rank of the mesh.
// REQUIRES: the parameters of one weight agree.
std::vector<std::vector<Weight*>> group_weights(const std::vector<Weight*>& weights, const Mesh& mesh);

}  // namespace trireme
