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
  // Sizes of the segments of a fused dim (queries, keys and values; gate and up), each of which is
  // cut by itself; they sum to the dim. Empty: the dim is cut as a whole.
  std::vector<int64_t> segments = {};
  // The parts may differ by one (a vocabulary); else the dim must divide.
  bool uneven = false;
};

// A weight that the first and the last pipeline stage both use (tied embeddings) lives on the ranks
// of both. Their gradients are added up (parallel/dp/tied_weight.h); what counts or stores a
// parameter once leaves copies out.
enum class Tie { kNone, kOwner, kCopy };

struct Placement {
  std::vector<Shard> shards;  // empty: replicated
  // The ranks that hold copies of the slice and whose gradients are added up: what tells one class
  // of buckets from another.
  Axis replica_axis = Axis::kDenseReplica;
  Tie tie = Tie::kNone;
};

// Elements [begin, begin + size) of each dim of a global tensor.
struct Box {
  kernels::Shape begin, size;
};

// What a rank holds of a global tensor: boxes of it, one behind the other in the row-major order of
// the local tensor. More than one only where a fused dim is cut.
struct LocalSlice {
  kernels::Shape begin;  // of the first box
  kernels::Shape size;   // of the local tensor
  std::vector<Box> boxes;
};
// CHECKs divisibility, which config validation guarantees; at most one shard has segments, and its
// dim is cut once.
LocalSlice SliceOf(const kernels::Shape& global_shape, const Placement& placement,
                   const MeshCoordinates& coordinates, const MeshDegrees& degrees);

}  // namespace muster::parallel
