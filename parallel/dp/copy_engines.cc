#include "parallel/dp/copy_engines.h"

#include "parallel/comm/collectives.h"

namespace muster::parallel {

absl::Status MoveBucketsByCopyEngines(const BucketStorage& storage, const Mesh& mesh) {
  for (const Axis axis : {Axis::kDenseReplica, Axis::kExpertData, Axis::kStage}) {
    const CopyMemory memory = storage.copy_memory(axis);
    if (memory.targets.empty()) continue;
    RETURN_IF_ERROR(UseCopyEngines(memory, mesh.ShardGroup(axis)));
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
