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

// How often an element of an [a, b, c] tensor is held, over all ranks; boxes must follow each other
// in the local tensor.
std::vector<int> Holders(const Shape& shape, const Placement& placement,
                         const MeshDegrees& degrees) {
  std::vector<int> holders(static_cast<size_t>(shape.num_elements()), 0);
  for (int rank = 0; rank < degrees.world_size(); ++rank) {
    const LocalSlice slice = SliceOf(shape, placement, CoordinatesOf(rank, degrees), degrees);
    EXPECT_EQ(slice.begin, slice.boxes.front().begin);
    int64_t held = 0;
    for (const Box& box : slice.boxes) {
      held += box.size.num_elements();
      for (int64_t i = 0; i < box.size.num_elements(); ++i) {
        const int64_t c = i % box.size[2], b = i / box.size[2] % box.size[1],
                      a = i / box.size[2] / box.size[1];
        ++holders[static_cast<size_t>(
            ((box.begin[0] + a) * shape[1] + box.begin[1] + b) * shape[2] + box.begin[2] + c)];
      }
    }
    EXPECT_EQ(held, slice.size.num_elements());
  }
  return holders;
}

// Over all ranks, each element is held once per replica: as often as the replica axis has ranks.
TEST(SliceOf, CoversEachElementOncePerReplica) {
  const MeshDegrees degrees{.dp = 2, .tp = 2, .pp = 1, .ep = 2, .etp = 2};
  const Axis edp = Axis::kExpertData;
  const std::vector<Placement> placements = {
      {{{Axis::kExpert, 0}, {Axis::kExpertTensor, 1}}, edp},
      {{{Axis::kTensor, 1}}},
      {{{Axis::kExpert, 0}, {Axis::kExpertTensor, 0}}, edp},
      {{{Axis::kTensor, 0, {4, 2, 2}}}},
      {{{Axis::kExpert, 0}, {Axis::kExpertTensor, 1, {4, 2}}}, edp},
      {{{Axis::kExpertTensor, 1, {4, 2}}, {Axis::kExpert, 0}}, edp},
      {{}, Axis::kStage},
  };
  for (const Placement& placement : placements) {
    const size_t replicas = GroupRanks(placement.replica_axis, 0, degrees).size();
    EXPECT_EQ(Holders({8, 6, 3}, placement, degrees),
              std::vector<int>(8 * 6 * 3, static_cast<int>(replicas)));
  }
}

TEST(SliceOf, CutsEachSegmentOfAFusedDim) {
  const MeshDegrees degrees{.dp = 1, .tp = 2};
  const Placement qkv{{{Axis::kTensor, 0, {4, 2, 2}}}};
  const LocalSlice slice = SliceOf({8, 5}, qkv, CoordinatesOf(1, degrees), degrees);
  EXPECT_EQ(slice.size, (Shape{4, 5}));
  ASSERT_EQ(slice.boxes.size(), 3u);
  EXPECT_EQ(slice.boxes[0].begin, (Shape{2, 0}));
  EXPECT_EQ(slice.boxes[0].size, (Shape{2, 5}));
  EXPECT_EQ(slice.boxes[1].begin, (Shape{5, 0}));
  EXPECT_EQ(slice.boxes[2].begin, (Shape{7, 0}));
}

TEST(SliceOf, FusedDimOnOneRankIsOneBox) {
  const MeshDegrees degrees{.dp = 2};
  const Placement qkv{{{Axis::kTensor, 0, {4, 2, 2}}}};
  EXPECT_EQ(SliceOf({8, 5}, qkv, CoordinatesOf(1, degrees), degrees).boxes.size(), 1u);
}

TEST(SliceOf, UnevenPartsDifferByOneAndCover) {
  const MeshDegrees degrees{.dp = 1, .tp = 4};
  const Placement vocabulary{{{.axis = Axis::kTensor, .dim = 0, .uneven = true}}};
  int64_t next = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const LocalSlice slice = SliceOf({29, 2}, vocabulary, CoordinatesOf(rank, degrees), degrees);
    EXPECT_EQ(slice.begin[0], next);
    EXPECT_TRUE(slice.size[0] == 7 || slice.size[0] == 8) << slice.size[0];
    next += slice.size[0];
  }
  EXPECT_EQ(next, 29);
}

TEST(SliceOfDeathTest, RefusesUnevenShards) {
  const MeshDegrees degrees{.dp = 1, .tp = 2};
  EXPECT_DEATH(SliceOf({5}, {{{Axis::kTensor, 0}}}, CoordinatesOf(0, degrees), degrees), "over tp");
}

}  // namespace
}  // namespace muster::parallel
