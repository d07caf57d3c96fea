#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/random/philox.h"
#include "parallel/placement.h"

namespace trireme {
namespace {

using Ranks = std::vector<int64_t>;

TEST(Mesh, TensorIsFastestPipelineSlowest) {
  Mesh::Degrees degrees;
  degrees.tensor = 2;
  degrees.data_shard = 3;
  degrees.pipeline = 2;
  const Mesh mesh(degrees, 9);  // tensor 1, data 1, pipeline 1
  EXPECT_EQ(mesh.world_size(), 12);
  EXPECT_EQ(mesh.coordinate(Axis::tensor), 1);
  EXPECT_EQ(mesh.coordinate(Axis::data_shard), 1);
  EXPECT_EQ(mesh.coordinate(Axis::pipeline), 1);
  EXPECT_EQ(mesh.group({Axis::tensor}), (Ranks{8, 9}));
  EXPECT_EQ(mesh.group(kDataAxes), (Ranks{7, 9, 11}));
  EXPECT_EQ(mesh.group({Axis::pipeline}), (Ranks{3, 9}));
  EXPECT_EQ(mesh.group({Axis::tensor, Axis::data_shard}), (Ranks{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(mesh.str(), "data 3 × tensor 2 × pipeline 2 = 12 ranks");
}

// Every group holds its rank at group_rank, has group_size members, and all members agree on it.
TEST(Mesh, GroupsPartitionTheWorld) {
  Mesh::Degrees degrees;
  degrees.tensor = 2;
  degrees.context = 2;
  degrees.data_shard = 3;
  degrees.data_replica = 2;
  degrees.pipeline = 2;
  degrees.expert = 4;
  degrees.expert_tensor = 2;
  const int64_t world = Mesh(degrees, 0).world_size();
  const AxisSet sets[] = {{Axis::tensor},
                          {Axis::context, Axis::data_shard},
                          kDataAxes,
                          {Axis::expert},
                          {Axis::expert_shard},
                          kExpertDataAxes,
                          {Axis::expert_tensor, Axis::expert},
                          {Axis::pipeline, Axis::expert_replica},
                          {Axis::tensor, Axis::pipeline},
                          {}};
  for (const AxisSet set : sets) {
    for (int64_t rank = 0; rank < world; ++rank) {
      const Mesh mesh(degrees, rank);
      const Ranks group = mesh.group(set);
      EXPECT_EQ(static_cast<int64_t>(group.size()), mesh.group_size(set));
      EXPECT_EQ(group[static_cast<size_t>(mesh.group_rank(set))], rank);
      EXPECT_TRUE(std::is_sorted(group.begin(), group.end()));
      for (const int64_t other : group) EXPECT_EQ(Mesh(degrees, other).group(set), group);
    }
  }
}

// Of random degrees: experts' axes number the ranks of each stage anew, each once, beginning with the fastest; a group
// along them lies in one stage; and where shards of experts exist, they lie in a replica of the dense layers.
TEST(Mesh, ExpertAxesFoldEachStage) {
  const uint64_t key = random_key(5, "folds");
  uint64_t at = 0;
  const auto draw = [&](int64_t n) {
    return 1 + static_cast<int64_t>(uniform_below(key, at++, static_cast<uint64_t>(n)));
  };
  int inside = 0, across = 0;
  for (int trial = 0; trial < 300; ++trial) {
    Mesh::Degrees d{.tensor = draw(4), .context = draw(2), .data_shard = draw(4), .data_replica = draw(4)};
    d.pipeline = draw(3);
    const int64_t replica = d.tensor * d.context * d.data_shard;
    const int64_t stage = replica * d.data_replica;
    while (true) {
      d.expert = draw(stage);
      d.expert_tensor = draw(4);
      if (stage % (d.expert * d.expert_tensor) == 0) break;
    }
    const bool fits = replica % (d.expert * d.expert_tensor) == 0;
    ++(fits ? inside : across);
    std::vector<std::vector<int64_t>> seen;  // coordinates
    for (int64_t rank = 0; rank < stage * d.pipeline; ++rank) {
      const Mesh mesh(d, rank);
      const int64_t shard = mesh.degree(Axis::expert_shard);
      EXPECT_EQ(d.expert_tensor * d.expert * shard * mesh.degree(Axis::expert_replica), stage);
      EXPECT_EQ(shard, fits ? replica / (d.expert * d.expert_tensor) : 1);
      const int64_t place = rank % stage;
      EXPECT_EQ(mesh.coordinate(Axis::expert_tensor), place % d.expert_tensor);
      EXPECT_EQ(mesh.coordinate(Axis::expert), place / d.expert_tensor % d.expert);
      EXPECT_EQ(mesh.coordinate(Axis::expert_shard), place / d.expert_tensor / d.expert % shard);
      EXPECT_EQ(mesh.coordinate(Axis::expert_replica), place / d.expert_tensor / d.expert / shard);
      const auto coordinates = {mesh.coordinate(Axis::expert_tensor), mesh.coordinate(Axis::expert),
                                mesh.coordinate(Axis::expert_shard), mesh.coordinate(Axis::expert_replica),
                                mesh.coordinate(Axis::pipeline)};
      EXPECT_EQ(std::count(seen.begin(), seen.end(), std::vector<int64_t>(coordinates)), 0);
      seen.emplace_back(coordinates);
      for (const Axis axis : {Axis::expert_tensor, Axis::expert, Axis::expert_shard, Axis::expert_replica}) {
        for (int64_t i = 0; i < mesh.degree(axis); ++i) {
          const Mesh other = mesh.at(axis, i);
          EXPECT_EQ(other.coordinate(axis), i);
          EXPECT_EQ(other.coordinate(Axis::pipeline), mesh.coordinate(Axis::pipeline));
          EXPECT_EQ(other.group({axis}), mesh.group({axis}));
          if (axis == Axis::expert_shard) {
            EXPECT_EQ(other.coordinate(Axis::data_replica), mesh.coordinate(Axis::data_replica));
          }
        }
      }
      EXPECT_EQ(mesh.group(kDispatchAxes | kExpertDataAxes).size(), static_cast<size_t>(stage));
      EXPECT_EQ(mesh.group(kDispatchAxes | kExpertDataAxes).front(), rank - place);
    }
  }
  EXPECT_GE(inside, 50);
  EXPECT_GE(across, 50);
}

TEST(Mesh, TextNamesExpertDegrees) {
  EXPECT_EQ(Mesh({.tensor = 2, .data_shard = 4, .pipeline = 2, .expert = 4}, 0).str(),
            "data 4 × tensor 2 × pipeline 2 = 16 ranks, experts: expert 4 × data 2");
  EXPECT_EQ(Mesh({.data_shard = 4, .expert = 1, .expert_tensor = 2}, 0).str(),
            "data 4 = 4 ranks, experts: expert 1 × expert_tensor 2 × data 2");
}

TEST(Mesh, AMillionRanksAreCheap) {
  Mesh::Degrees degrees;
  degrees.tensor = 8;
  degrees.data_shard = 125000;
  const Mesh mesh(degrees, 999999);
  EXPECT_EQ(mesh.group({Axis::tensor}), (Ranks{999992, 999993, 999994, 999995, 999996, 999997, 999998, 999999}));
  EXPECT_EQ(mesh.data_rank(), 124999);
}

TEST(Placement, ListsTheAxesThatOweASum) {
  Placement placement;
  placement.partial(Axis::data_shard).partial(Axis::data_replica).split(Axis::tensor, 0);
  EXPECT_EQ(placement.partial_axes(), kDataAxes);
  EXPECT_EQ(placement[Axis::tensor].dim, 0);
  EXPECT_EQ(Placement{}.partial_axes(), AxisSet{});
  placement.hold(Axis::expert);
  EXPECT_EQ(placement.partial_axes(), kDataAxes);
  EXPECT_EQ(placement.cut_axes(), (AxisSet{Axis::tensor, Axis::expert}));
}

}  // namespace
}  // namespace trireme
