// The communicators of one rank: one for each set of mesh axes that something is reduced, gathered or sent over, made
// once at the start. Tensors of the device.
//
// Thread safety and order: as of Communicator.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/mesh.h"

namespace trireme {

class Groups {
 public:
  // Makes a communicator over these world ranks, or gives nullptr to a rank that isn't among them; collective over the
  // world. `ranks` is empty on ranks that are in no group of this call.
  using Factory = std::function<std::unique_ptr<Communicator>(const std::vector<int>& ranks, const std::string& name)>;

  // Collective over the world. `ring`: the last stage sends to the first, too (interleaved schedules). `experts`: the
  // model has some, and groups over the axes of experts are made.
  Groups(const Mesh& mesh, bool ring, const Factory& make, bool experts = false);

  const Mesh& mesh() const { return mesh_; }

  // All ranks that differ from this one in `axes` only, fastest axis first. Axes of degree 1 don't matter.
  // REQUIRES: the axes are one of: tensor, data_shard, data_replica, both data axes, or every axis; with experts also
  // expert_shard, expert_replica or kDispatchAxes.
  Communicator& of(AxisSet axes) const;
  Communicator& world() const { return of(kDenseAxes); }

  // The way from this rank's pipeline stage to another one's, or from there: two ranks, rank 0 sends. Each direction has
  // its own, so that transfers wait for nothing but their peers. There
  // is one between neighbours; in a ring the ends are neighbours.
  Communicator& channel_to(int64_t stage) const;
  Communicator& channel_from(int64_t stage) const;
  // The first and the last stage, for what they share (tied embeddings); a group of one elsewhere.
  Communicator& ends() const { return *ends_; }

 private:
  Mesh mesh_;
  std::map<AxisSet, std::unique_ptr<Communicator>> groups_;
  std::map<int64_t, std::unique_ptr<Communicator>> to_, from_;
  std::unique_ptr<Communicator> ends_;
};

}  // namespace trireme
