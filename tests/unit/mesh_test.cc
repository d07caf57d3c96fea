#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>

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
                          {Axis::expert_data},
                          {Axis::expert_tensor, Axis::expert},
                          {Axis::pipeline, Axis::expert_data},
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
}

}  // namespace
}  // namespace trireme
