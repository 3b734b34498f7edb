// How replicas are divided into blocks that shard state inside and replicate it across
// (hierarchical data parallelism): a block is what shares fast links, such as the ranks of a host.
#include <algorithm>

#include "kernels/base/error.h"
#include "parallel/comm/collectives.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {
namespace {

int StageRanks(const MeshDegrees& degrees) { return degrees.dp * degrees.cp * degrees.tp; }

// Consecutive ranks of a stage.
int BlockRanks(const MeshDegrees& degrees) {
  return degrees.shard == 0 ? StageRanks(degrees) : degrees.shard * degrees.tp;
}

int BlockOf(int world_rank, const MeshDegrees& degrees) {
  return IndexInStage(world_rank, degrees) / BlockRanks(degrees);
}

// Expert replicas are this many ranks apart; they divide evenly if one divides the other.
bool DividesExperts(int block, const MeshDegrees& degrees) {
  const int stride = degrees.ep * degrees.etp;
  return block % stride == 0 || stride % block == 0;
}

// Else a block of consecutive ranks would hold parts of replicas.
bool TensorRanksAreNeighbours(const MeshDegrees& degrees) {
  for (const Axis axis : degrees.order) {
    if (axis == Axis::kTensor) break;
    const int inside = axis == Axis::kContext ? degrees.cp : axis == Axis::kData ? degrees.dp : 1;
    if (inside > 1) return degrees.tp == 1;
  }
  return true;
}

bool IsLegal(int shard, const MeshDegrees& degrees) {
  return shard >= 1 && degrees.dp * degrees.cp % shard == 0 &&
         DividesExperts(shard * degrees.tp, degrees);
}

}  // namespace

std::vector<int> ShardRanks(Axis replica_axis, int world_rank, const MeshDegrees& degrees) {
  std::vector<int> ranks = GroupRanks(replica_axis, world_rank, degrees);
  std::erase_if(ranks,
                [&](int rank) { return BlockOf(rank, degrees) != BlockOf(world_rank, degrees); });
  return ranks;
}

std::vector<int> CopyRanks(Axis replica_axis, int world_rank, const MeshDegrees& degrees) {
  const auto place_of = [&](int rank) {
    const std::vector<int> shards = ShardRanks(replica_axis, rank, degrees);
    return std::find(shards.begin(), shards.end(), rank) - shards.begin();
  };
  std::vector<int> ranks = GroupRanks(replica_axis, world_rank, degrees);
  const auto mine = place_of(world_rank);
  std::erase_if(ranks, [&](int rank) { return place_of(rank) != mine; });
  return ranks;
}

void CheckShards(const MeshDegrees& degrees, std::vector<std::string>* problems) {
  if (degrees.shard == 0) return;
  if (!TensorRanksAreNeighbours(degrees)) {
    problems->push_back("zero.shard_ranks = " + std::to_string(degrees.shard) +
                        " wants tp before cp and dp in mesh.order, which is \"" +
                        ToString(degrees.order) + "\"; nearest legal: mesh.order = \"" +
                        ToString(kDefaultOrder) + "\", or zero.shard_ranks = 0 (all replicas)");
  }
  if (IsLegal(degrees.shard, degrees)) return;
  const int replicas = degrees.dp * degrees.cp;
  int below = std::min(degrees.shard, replicas), above = std::max(degrees.shard, 1);
  while (below >= 1 && !IsLegal(below, degrees)) --below;
  while (above <= replicas && !IsLegal(above, degrees)) ++above;
  std::string nearest = below >= 1 ? std::to_string(below) : "";
  if (above <= replicas) nearest += (nearest.empty() ? "" : " or ") + std::to_string(above);
  problems->push_back("zero.shard_ranks = " + std::to_string(degrees.shard) +
                      " must divide mesh.dp x mesh.cp = " + std::to_string(replicas) +
                      ", and its block of " + std::to_string(BlockRanks(degrees)) +
                      " ranks must be a multiple or a divisor of mesh.ep x mesh.etp = " +
                      std::to_string(degrees.ep * degrees.etp) + "; nearest legal: " + nearest +
                      " (0: all replicas)");
}

absl::Status Mesh::MakeShardGroups(World& world, const std::set<Axis>& silent,
                                   kernels::StreamView warm) {
  if (degrees_.shard == 0) return absl::OkStatus();
  for (const Axis axis : {Axis::kDenseReplica, Axis::kExpertData, Axis::kStage}) {
    if (silent.contains(axis)) continue;
    const auto make = [&](const char* kind, std::vector<int> ranks) {
      return world.NewGroup(std::string(Name(axis)) + kind, std::move(ranks), kExposedDp, device_);
    };
    ASSIGN_OR_RETURN(auto shards, make(" shards", ShardRanks(axis, world.rank(), degrees_)));
    ASSIGN_OR_RETURN(auto copies, make(" copies", CopyRanks(axis, world.rank(), degrees_)));
    for (const ProcessGroup* group : {shards.get(), copies.get()}) {
      RETURN_IF_ERROR(Barrier(*group, warm));
      RETURN_IF_ERROR(warm.Synchronize());
    }
    shard_groups_[axis] = std::move(shards);
    if (copies->size() > 1) copy_groups_[axis] = std::move(copies);
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
