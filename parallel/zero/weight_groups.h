// Which weights of a unit can share a bucket, and what that bucket is like. Together lie weights whose gradients are
// summed over the same axes and whose values are cut along the same axes, where axes of degree 1 don't matter, so that
// without tensor parallelism a dense unit has one bucket. Apart from the others lie those of experts, which have shards of
// their own; those that stay fp32; and buffers.
#pragma once

#include <vector>

#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/zero/bucket.h"

namespace trireme {

// In the order of the first weight of each group, and of the weights in it: the same on every rank of the mesh.
// REQUIRES: the parameters of one weight agree.
std::vector<std::vector<Weight*>> group_weights(const std::vector<Weight*>& weights, const Mesh& mesh);

// The options of a bucket of such weights on the mesh's rank, from those of the run: its place among the shards; fp32
// throughout where the weights stay so; for buffers values alone, all of them on every rank.
Bucket::Options bucket_options(const Bucket::Options& run, const Parameter& first, const Mesh& mesh);

}  // namespace trireme
