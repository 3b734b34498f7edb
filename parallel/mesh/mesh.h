#pragma once
// The mesh folds the world's W ranks twice over the same ranks:
//   dense part    W = pp x dp x cp x tp      (tp innermost, or in another order)
//   expert part   W = pp x edp x ep x etp    (etp innermost),  dp cp tp = edp ep etp
// The expert part counts the ranks of a stage as the dense axes number them, without pp.
// A degree left out is 1, but dp fills the world. Experts are folded, not multiplied: the ranks of
// an ep group are ranks of the dense axes.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/device.h"
#include "parallel/comm/process_group.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/comm/side_stream.h"
#include "parallel/mesh/axis_order.h"

namespace muster::parallel {

enum class Axis {
  kData,          // dp: replicas of the dense part
  kTensor,        // tp
  kContext,       // cp
  kPipeline,      // pp
  kExpert,        // ep: ranks that share one set of experts
  kExpertTensor,  // etp
  kExpertData,    // edp: replicas of an expert shard; its gradients are reduced here
  kDenseReplica,  // dp x cp: gradients of dense parameters are reduced here
  kStage,         // dp x cp x tp: all ranks of a pipeline stage; gradients of dense parameters that
                  // are not sharded over tp are reduced here
  kWorld,
};
const char* Name(Axis axis);
inline constexpr AxisOrder kDefaultOrder = {Axis::kTensor, Axis::kContext, Axis::kData,
                                            Axis::kPipeline};

struct MeshDegrees {
  int dp = 0;  // 0: what is left of the world
  int tp = 1, cp = 1, pp = 1, ep = 1, etp = 1;
  // Ranks of dp x cp that shard their state among themselves (ZeRO), while such blocks of ranks
  // replicate it; 0: all.
  int shard = 0;
  AxisOrder order = kDefaultOrder;
  int edp() const { return dp * cp * tp / (ep * etp); }
  int world_size() const { return pp * dp * cp * tp; }
  // "dp4 ep2 (edp2)", degrees of 1 left out; another order than the default is added.
  std::string ToString() const;
};

// Fills dp in and checks every rule; each broken one is a sentence with field, value and the
// nearest legal values, appended to `problems`.
MeshDegrees ResolveMesh(MeshDegrees wanted, int world_size, std::vector<std::string>* problems);

struct MeshCoordinates {
  int pp = 0, dp = 0, cp = 0, tp = 0;  // dense
  int edp = 0, ep = 0, etp = 0;        // expert
};
MeshCoordinates CoordinatesOf(int world_rank, const MeshDegrees& degrees);
// The rank's number among the ranks of its pipeline stage, in the order of the axes: ascending with
// the world rank.
int IndexInStage(int world_rank, const MeshDegrees& degrees);
// World ranks, ascending, of the group along `axis` that contains `world_rank`.
std::vector<int> GroupRanks(Axis axis, int world_rank, const MeshDegrees& degrees);

// The ranks of a replica group (kDenseReplica, kExpertData, kStage) that shard its state, and those
// that hold equal shards. A block is shard x tp consecutive ranks of a stage, whose innermost axis
// must be tp: members of the group
// in one block shard, members at equal places of all blocks hold copies. See shard_groups.cc.
std::vector<int> ShardRanks(Axis replica_axis, int world_rank, const MeshDegrees& degrees);
std::vector<int> CopyRanks(Axis replica_axis, int world_rank, const MeshDegrees& degrees);
// The rules of degrees.shard, for resolved degrees; sentences as of ResolveMesh.
void CheckShards(const MeshDegrees& degrees, std::vector<std::string>* problems);

class Mesh {
 public:
  // Makes and warms every group, in the same order on all ranks. Along the `silent` axes nothing
  // will be exchanged: their groups have ranks, but no communicator, which on GPUs would take some
  // tenths of a second and of a gigabyte (docs/adr/0014-communicators.md). CHECKs that degrees are
  // resolved.
  static absl::StatusOr<std::unique_ptr<Mesh>> Create(World& world, const MeshDegrees& degrees,
                                                      kernels::Device device,
                                                      const std::set<Axis>& silent = {});
  const ProcessGroup& Group(Axis axis) const { return *groups_[static_cast<size_t>(axis)]; }
  // Of a replica axis: the ranks that shard its state, and those that hold this rank's shard; null
  // if it is the only one.
  const ProcessGroup& ShardGroup(Axis replica_axis) const {
    const auto found = shard_groups_.find(replica_axis);
    return found == shard_groups_.end() ? Group(replica_axis) : *found->second;
  }
  const ProcessGroup* CopyGroup(Axis replica_axis) const {
    const auto found = copy_groups_.find(replica_axis);
    return found == copy_groups_.end() ? nullptr : found->second.get();
  }
  const MeshDegrees& degrees() const { return degrees_; }
  const MeshCoordinates& coordinates() const { return coordinates_; }
  kernels::Device device() const { return device_; }
  // For the transfers of context parallelism. CHECKs that cp > 1.
  const SideStream& context_stream() const;

 private:
  Mesh() = default;
  MeshDegrees degrees_;
  MeshCoordinates coordinates_;
  kernels::Device device_;
  absl::Status MakeShardGroups(World& world, const std::set<Axis>& silent,
                               kernels::StreamView warm);
  std::vector<std::unique_ptr<ProcessGroup>> groups_;                         // indexed by Axis
  std::map<Axis, std::unique_ptr<ProcessGroup>> shard_groups_, copy_groups_;  // with degrees.shard
  std::unique_ptr<SideStream> context_stream_;                                // null: cp 1
};

}  // namespace muster::parallel
