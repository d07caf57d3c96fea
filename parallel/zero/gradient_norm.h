// This rank's share of the squared norm of all gradients: summed over the world, each logical element counts once.
//
// A rank counts its shard of what its data group holds, in every stage of ZeRO, so that stages have the same bits; the
// first replica counts for all; of ranks that hold the same part of a parameter, the first of the tensor group, and among
// experts of the dispatch group; of a tied table, the first pipeline stage. Padding is zero.
#pragma once

#include <vector>

#include "parallel/mesh.h"
#include "parallel/zero/bucket.h"

namespace trireme {

// out[0] = Σ g² in fp64, of the reduced gradients. out f64 [1].
void sum_gradient_squares(Stream& stream, const std::vector<Bucket*>& buckets, const Mesh& mesh, Tensor& out);

}  // namespace trireme
