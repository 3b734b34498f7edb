#include "parallel/mesh/placement.h"

#include <gtest/gtest.h>

namespace muster::parallel {
namespace {

using kernels::Shape;

TEST(SliceOf, ReplicatedTensorIsWhole) {
  const MeshDegrees degrees{.dp = 4};
  const LocalSlice slice = SliceOf({6, 5}, {}, CoordinatesOf(3, degrees), degrees);
  EXPECT_EQ(slice.begin, (Shape{0, 0}));
  EXPECT_EQ(slice.size, (Shape{6, 5}));
}

// Over all ranks, each element is held once per replica: as often as the replica axis has ranks.
TEST(SliceOf, CoversEachElementOncePerReplica) {
  const MeshDegrees degrees{.dp = 2, .tp = 2, .pp = 1, .ep = 2, .etp = 2};
  const Placement expert{{{Axis::kExpert, 0}, {Axis::kExpertTensor, 1}}, Axis::kExpertData};
  const Placement dense{{{Axis::kTensor, 1}}};
  const Placement twice{{{Axis::kExpert, 0}, {Axis::kExpertTensor, 0}}, Axis::kExpertData};
  for (const Placement& placement : {expert, dense, twice}) {
    const Shape shape{8, 6};
    std::vector<int> holders(48, 0);
    for (int rank = 0; rank < degrees.world_size(); ++rank) {
      const LocalSlice slice = SliceOf(shape, placement, CoordinatesOf(rank, degrees), degrees);
      for (int64_t row = 0; row < slice.size[0]; ++row) {
        for (int64_t column = 0; column < slice.size[1]; ++column) {
          ++holders[static_cast<size_t>((slice.begin[0] + row) * 6 + slice.begin[1] + column)];
        }
      }
    }
    const size_t replicas = GroupRanks(placement.replica_axis, 0, degrees).size();
    for (const int count : holders) EXPECT_EQ(static_cast<size_t>(count), replicas);
  }
}

TEST(SliceOfDeathTest, RefusesUnevenShards) {
  const MeshDegrees degrees{.dp = 1, .tp = 2};
  EXPECT_DEATH(SliceOf({5}, {{{Axis::kTensor, 0}}}, CoordinatesOf(0, degrees), degrees), "over tp");
}

}  // namespace
}  // namespace muster::parallel
