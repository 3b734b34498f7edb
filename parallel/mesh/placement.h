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
  // The ranks that hold copies of the slice and whose gradients are added up: what tells one class
  // of buckets from another.
  Axis replica_axis = Axis::kDenseReplica;
};

// The slice [begin, begin + size) of each dim that a rank holds. CHECKs divisibility, which config
// validation guarantees.
struct LocalSlice {
  kernels::Shape begin, size;
};
LocalSlice SliceOf(const kernels::Shape& global_shape, const Placement& placement,
                   const MeshCoordinates& coordinates, const MeshDegrees& degrees);

}  // namespace muster::parallel
