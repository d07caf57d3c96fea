// Where a rank stands among the ranks that share out experts, and how experts are trained: what the layers of a model with
// experts have in common.
#pragma once

#include "core/config/config.h"
#include "parallel/comm/communicator.h"
#include "parallel/mesh.h"
#include "parallel/tensor_group.h"

namespace trireme {

class MoeStats;

struct MoeSetup {
  MoeConfig config = {};
  TensorGroup tensor = {};
  int64_t expert_degree = 1;      // ranks among which experts are shared out: each has E / degree, consecutive ones
  int64_t expert_coordinate = 0;  // this rank's place among them
  int64_t expert_tensor = 1;      // ranks that each have a part of every matrix of an expert
  // The ranks that tokens travel between: expert × expert_tensor, the latter fastest. None where that is one rank, or
  // where nothing will run (plans).
  Communicator* dispatch = nullptr;
  Communicator* data = nullptr;  // the data ranks, for balance over the whole batch; as above
  MoeStats* stats = nullptr;     // where layers count; may be absent

  static MoeSetup of(const MoeConfig& config, const Mesh& mesh, const TensorGroup& tensor) {
    return {.config = config,
            .tensor = tensor,
            .expert_degree = mesh.degree(Axis::expert),
            .expert_coordinate = mesh.coordinate(Axis::expert),
            .expert_tensor = mesh.degree(Axis::expert_tensor)};
  }
};

}  // namespace trireme
