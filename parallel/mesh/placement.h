#pragma once
// Where a parameter's elements live: sharded along some dims over some axes, replicated over the
// others. The slice of each rank follows from its coordinates.
#include <vector>

#include "kernels/tensor/tensor.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

struct Shard {
  Axis axis;  // kTensor, kExpert or kExpertTensor
  int dim;    // of the tensor
};

struct Placement {
  std::vector<Shard> shards;  // empty: replicated
  bool expert = false;        // replicas are the expert-data group, else the dense-replica group
  Axis replica_axis() const { return expert ? Axis::kExpertData : Axis::kDenseReplica; }
};

// The slice [begin, begin + size) of each dim that a rank holds. CHECKs divisibility, which config
// validation guarantees.
struct LocalSlice {
  kernels::Shape begin, size;
};
LocalSlice SliceOf(const kernels::Shape& global_shape, const Placement& placement,
                   const MeshCoordinates& coordinates, const MeshDegrees& degrees);

}  // namespace muster::parallel
