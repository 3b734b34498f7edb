#include "parallel/mesh/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace muster::parallel {
namespace {

constexpr Axis kAxes[] = {
    Axis::kData,         Axis::kTensor,     Axis::kContext,      Axis::kPipeline, Axis::kExpert,
    Axis::kExpertTensor, Axis::kExpertData, Axis::kDenseReplica, Axis::kStage,    Axis::kWorld};

int SizeOf(Axis axis, const MeshDegrees& degrees) {
  switch (axis) {
    case Axis::kData:
      return degrees.dp;
    case Axis::kTensor:
      return degrees.tp;
    case Axis::kContext:
      return degrees.cp;
    case Axis::kPipeline:
      return degrees.pp;
    case Axis::kExpert:
      return degrees.ep;
    case Axis::kExpertTensor:
      return degrees.etp;
    case Axis::kExpertData:
      return degrees.edp();
    case Axis::kDenseReplica:
      return degrees.dp * degrees.cp;
    case Axis::kStage:
      return degrees.dp * degrees.cp * degrees.tp;
    case Axis::kWorld:
      return degrees.world_size();
  }
  return 0;
}

// All meshes whose degrees are legal in a world of `world_size` ranks.
std::vector<MeshDegrees> LegalMeshes(int world_size) {
  std::vector<MeshDegrees> meshes;
  for (int pp = 1; pp <= world_size; ++pp) {
    for (int cp = 1; cp * pp <= world_size; ++cp) {
      for (int tp = 1; tp * cp * pp <= world_size; ++tp) {
        if (world_size % (pp * cp * tp) != 0) continue;
        const int stage_ranks = world_size / pp;
        for (int ep = 1; ep <= stage_ranks; ++ep) {
          for (int etp = 1; ep * etp <= stage_ranks; ++etp) {
            if (stage_ranks % (ep * etp) != 0) continue;
            meshes.push_back({.dp = stage_ranks / (cp * tp),
                              .tp = tp,
                              .cp = cp,
                              .pp = pp,
                              .ep = ep,
                              .etp = etp});
          }
        }
      }
    }
  }
  return meshes;
}

TEST(Mesh, GroupsOfEveryAxisPartitionTheWorld) {
  for (const int world_size : {1, 6, 8, 12}) {
    for (const MeshDegrees& degrees : LegalMeshes(world_size)) {
      for (const Axis axis : kAxes) {
        std::vector<int> times_seen(static_cast<size_t>(world_size), 0);
        for (int rank = 0; rank < world_size; ++rank) {
          const std::vector<int> ranks = GroupRanks(axis, rank, degrees);
          ASSERT_EQ(static_cast<int>(ranks.size()), SizeOf(axis, degrees))
              << Name(axis) << " of " << degrees.ToString();
          ASSERT_TRUE(std::is_sorted(ranks.begin(), ranks.end()));
          ASSERT_TRUE(std::count(ranks.begin(), ranks.end(), rank) == 1);
          for (const int member : ranks) {
            ASSERT_EQ(GroupRanks(axis, member, degrees), ranks);
            ++times_seen[static_cast<size_t>(member)];
          }
        }
        for (const int times : times_seen) ASSERT_EQ(times, SizeOf(axis, degrees));
      }
    }
  }
}

TEST(Mesh, CoordinatesAreUniqueInBothFoldings) {
  for (const MeshDegrees& degrees : LegalMeshes(12)) {
    std::set<std::vector<int>> dense, expert;
    for (int rank = 0; rank < 12; ++rank) {
      const MeshCoordinates at = CoordinatesOf(rank, degrees);
      dense.insert({at.pp, at.dp, at.cp, at.tp});
      expert.insert({at.pp, at.edp, at.ep, at.etp});
      ASSERT_TRUE(at.tp < degrees.tp && at.cp < degrees.cp && at.dp < degrees.dp &&
                  at.pp < degrees.pp && at.ep < degrees.ep && at.etp < degrees.etp &&
                  at.edp < degrees.edp());
    }
    ASSERT_EQ(dense.size(), 12u);
    ASSERT_EQ(expert.size(), 12u);
  }
}

TEST(Mesh, FoldsExpertsOverDenseRanksWithTpInnermost) {
  const MeshDegrees degrees{.dp = 2, .tp = 2, .pp = 2, .ep = 4};  // edp 1
  EXPECT_EQ(GroupRanks(Axis::kTensor, 5, degrees), (std::vector<int>{4, 5}));
  EXPECT_EQ(GroupRanks(Axis::kData, 5, degrees), (std::vector<int>{5, 7}));
  EXPECT_EQ(GroupRanks(Axis::kPipeline, 5, degrees), (std::vector<int>{1, 5}));
  EXPECT_EQ(GroupRanks(Axis::kExpert, 5, degrees), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(GroupRanks(Axis::kExpertData, 5, degrees), (std::vector<int>{5}));
  const MeshDegrees flat{.dp = 8, .ep = 2};
  EXPECT_EQ(GroupRanks(Axis::kExpert, 5, flat), (std::vector<int>{4, 5}));
  EXPECT_EQ(GroupRanks(Axis::kExpertData, 5, flat), (std::vector<int>{1, 3, 5, 7}));
}

std::vector<AxisOrder> AllOrders() {
  std::vector<AxisOrder> orders;
  AxisOrder order = kDefaultOrder;
  std::sort(order.begin(), order.end());
  do {
    orders.push_back(order);
  } while (std::next_permutation(order.begin(), order.end()));
  return orders;
}

TEST(AxisOrder, NumbersRanksFromTheInnermostAxis) {
  MeshDegrees degrees{.dp = 2, .tp = 2, .pp = 2, .ep = 4};
  degrees.order = {Axis::kTensor, Axis::kPipeline, Axis::kContext, Axis::kData};
  EXPECT_EQ(GroupRanks(Axis::kTensor, 5, degrees), (std::vector<int>{4, 5}));
  EXPECT_EQ(GroupRanks(Axis::kPipeline, 5, degrees), (std::vector<int>{5, 7}));
  EXPECT_EQ(GroupRanks(Axis::kData, 5, degrees), (std::vector<int>{1, 5}));
  EXPECT_EQ(GroupRanks(Axis::kExpert, 5, degrees), (std::vector<int>{0, 1, 4, 5}));  // the stage
  degrees.order = {Axis::kData, Axis::kTensor, Axis::kContext, Axis::kPipeline};
  degrees.ep = 2;
  EXPECT_EQ(GroupRanks(Axis::kExpert, 5, degrees), (std::vector<int>{4, 5}));  // along dp
  EXPECT_EQ(GroupRanks(Axis::kExpertData, 5, degrees), (std::vector<int>{5, 7}));
  EXPECT_EQ(degrees.ToString(), "dp2 tp2 pp2 ep2 (edp2), order dp tp cp pp");
}

// A rank's place in a group is its coordinate along the axis, which senders and shards count on.
TEST(AxisOrder, KeepsGroupsAndFoldingsWhole) {
  for (const AxisOrder& order : AllOrders()) {
    for (MeshDegrees degrees : LegalMeshes(8)) {
      degrees.order = order;
      std::set<std::vector<int>> expert;
      for (int rank = 0; rank < 8; ++rank) {
        const MeshCoordinates at = CoordinatesOf(rank, degrees);
        expert.insert({at.pp, at.edp, at.ep, at.etp});
        for (const auto& [axis, coordinate] :
             {std::pair(Axis::kTensor, at.tp), std::pair(Axis::kContext, at.cp),
              std::pair(Axis::kData, at.dp), std::pair(Axis::kPipeline, at.pp),
              std::pair(Axis::kExpert, at.ep), std::pair(Axis::kExpertTensor, at.etp),
              std::pair(Axis::kExpertData, at.edp)}) {
          const std::vector<int> ranks = GroupRanks(axis, rank, degrees);
          ASSERT_EQ(static_cast<int>(ranks.size()), SizeOf(axis, degrees));
          ASSERT_EQ(ranks[static_cast<size_t>(coordinate)], rank)
              << Name(axis) << " of " << degrees.ToString();
        }
      }
      ASSERT_EQ(expert.size(), 8u) << degrees.ToString();
    }
  }
}

TEST(AxisOrder, IsReadOrCorrected) {
  AxisOrder order;
  std::string nearest;
  for (const char* text : {"dp pp tp cp", "dp-pp-tp-cp", "dp,pp, tp,cp"}) {
    ASSERT_TRUE(ParseAxisOrder(text, &order, &nearest)) << text;
    EXPECT_EQ(ToString(order), "dp pp tp cp");
  }
  for (const auto& [text, wanted] :
       std::vector<std::pair<std::string, std::string>>{{"", "tp cp dp pp"},
                                                        {"pp tp", "pp tp cp dp"},
                                                        {"dp dp tp cp pp", "dp tp cp pp"},
                                                        {"tp-cp-ep-dp-pp", "tp cp dp pp"},
                                                        {"TP CP DP PP", "tp cp dp pp"}}) {
    EXPECT_FALSE(ParseAxisOrder(text, &order, &nearest)) << text;
    EXPECT_EQ(nearest, wanted) << text;
  }
}

TEST(ShardRanks, WantTensorRanksAsNeighbours) {
  MeshDegrees degrees{.dp = 4, .tp = 2, .shard = 2};
  degrees.order = {Axis::kData, Axis::kTensor, Axis::kContext, Axis::kPipeline};
  std::vector<std::string> problems;
  CheckShards(degrees, &problems);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_NE(problems[0].find("mesh.order = \"tp cp dp pp\""), std::string::npos) << problems[0];
  degrees.order = {Axis::kPipeline, Axis::kContext, Axis::kTensor, Axis::kData};  // cp is 1
  problems.clear();
  CheckShards(degrees, &problems);
  EXPECT_TRUE(problems.empty());
}

TEST(ShardRanks, AndCopyRanksDivideReplicasIntoBlocks) {
  MeshDegrees degrees{.dp = 4, .tp = 2, .ep = 4};
  degrees.shard = 2;  // blocks 0-3 and 4-7 of a stage
  EXPECT_EQ(ShardRanks(Axis::kDenseReplica, 5, degrees), (std::vector<int>{5, 7}));
  EXPECT_EQ(CopyRanks(Axis::kDenseReplica, 5, degrees), (std::vector<int>{1, 5}));
  EXPECT_EQ(ShardRanks(Axis::kStage, 5, degrees), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(CopyRanks(Axis::kStage, 5, degrees), (std::vector<int>{1, 5}));
  EXPECT_EQ(ShardRanks(Axis::kExpertData, 5, degrees), (std::vector<int>{5}));
  EXPECT_EQ(CopyRanks(Axis::kExpertData, 5, degrees), (std::vector<int>{1, 5}));
  degrees.shard = 0;
  EXPECT_EQ(ShardRanks(Axis::kDenseReplica, 5, degrees), (std::vector<int>{1, 3, 5, 7}));
  EXPECT_EQ(CopyRanks(Axis::kDenseReplica, 5, degrees), (std::vector<int>{5}));
}

TEST(ShardRanks, TimesCopyRanksAreTheReplicas) {
  for (const int shard : {1, 2, 3, 6}) {
    const MeshDegrees degrees{.dp = 6, .tp = 2, .pp = 2, .ep = 2, .shard = shard};
    std::vector<std::string> problems;
    CheckShards(degrees, &problems);
    ASSERT_TRUE(problems.empty()) << problems[0];
    for (const Axis axis : {Axis::kDenseReplica, Axis::kExpertData, Axis::kStage}) {
      for (int rank = 0; rank < degrees.world_size(); ++rank) {
        std::set<int> reached;
        for (const int copy : CopyRanks(axis, rank, degrees)) {
          for (const int other : ShardRanks(axis, copy, degrees)) reached.insert(other);
        }
        const std::vector<int> all = GroupRanks(axis, rank, degrees);
        EXPECT_EQ(reached, std::set<int>(all.begin(), all.end()));
        EXPECT_EQ(ShardRanks(axis, rank, degrees).size() * CopyRanks(axis, rank, degrees).size(),
                  all.size());
      }
    }
  }
}

TEST(MeshDegrees, PrintWithoutOnes) {
  EXPECT_EQ((MeshDegrees{.dp = 4, .ep = 2}).ToString(), "dp4 ep2 (edp2)");
  EXPECT_EQ((MeshDegrees{.dp = 1}).ToString(), "dp1");
  EXPECT_EQ((MeshDegrees{.dp = 2, .tp = 2, .pp = 2}).ToString(), "dp2 tp2 pp2");
}

TEST(ResolveMesh, FillsDpWithWhatIsLeft) {
  std::vector<std::string> problems;
  const MeshDegrees degrees = ResolveMesh({.tp = 2, .pp = 2, .ep = 4}, 8, &problems);
  EXPECT_TRUE(problems.empty());
  EXPECT_EQ(degrees.dp, 2);
  EXPECT_EQ(degrees.edp(), 1);
}

TEST(ResolveMesh, AcceptsEveryLegalMesh) {
  for (const int world_size : {1, 2, 6, 8}) {
    for (const MeshDegrees& degrees : LegalMeshes(world_size)) {
      std::vector<std::string> problems;
      EXPECT_EQ(ResolveMesh(degrees, world_size, &problems).dp, degrees.dp);
      EXPECT_TRUE(problems.empty()) << degrees.ToString() << ": " << problems.front();
    }
  }
}

std::vector<std::string> ProblemsOf(MeshDegrees degrees, int world_size) {
  std::vector<std::string> problems;
  ResolveMesh(degrees, world_size, &problems);
  return problems;
}

TEST(ResolveMesh, NamesFieldValueAndNearestLegalValues) {
  const auto tp = ProblemsOf({.tp = 3}, 8);
  ASSERT_EQ(tp.size(), 1u);
  EXPECT_NE(tp[0].find("mesh.tp = 2 or 4"), std::string::npos) << tp[0];
  EXPECT_NE(tp[0].find("8 ranks"), std::string::npos) << tp[0];
  const auto dp = ProblemsOf({.dp = 3, .tp = 2}, 8);
  ASSERT_EQ(dp.size(), 1u);
  EXPECT_NE(dp[0].find("mesh.dp = 3"), std::string::npos) << dp[0];
  EXPECT_NE(dp[0].find("value is 4"), std::string::npos) << dp[0];
  const auto ep = ProblemsOf({.pp = 2, .ep = 3}, 8);
  ASSERT_EQ(ep.size(), 1u);
  EXPECT_NE(ep[0].find("mesh.ep = 2 or 4"), std::string::npos) << ep[0];
  const auto large = ProblemsOf({.ep = 100}, 8);
  ASSERT_EQ(large.size(), 1u);
  EXPECT_NE(large[0].find("mesh.ep = 8"), std::string::npos) << large[0];
}

TEST(ResolveMesh, ListsAllBrokenRulesAtOnce) {
  EXPECT_EQ(ProblemsOf({.dp = -1, .tp = 0, .pp = -2}, 8).size(), 3u);
  EXPECT_EQ(ProblemsOf({.tp = 3, .ep = 5}, 8).size(), 2u);
  EXPECT_EQ(ProblemsOf({.dp = 5, .etp = 3}, 8).size(), 2u);
}

}  // namespace
}  // namespace muster::parallel
