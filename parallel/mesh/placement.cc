#include "parallel/mesh/placement.h"

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

struct Position {
  int index, degree;
};

Position PositionOn(Axis axis, const MeshCoordinates& coordinates, const MeshDegrees& degrees) {
  switch (axis) {
    case Axis::kTensor:
      return {coordinates.tp, degrees.tp};
    case Axis::kExpert:
      return {coordinates.ep, degrees.ep};
    case Axis::kExpertTensor:
      return {coordinates.etp, degrees.etp};
    default:
      break;
  }
  MUSTER_CHECK(false) << "parameters are not sharded over axis " << Name(axis);
  return {0, 1};
}

}  // namespace

LocalSlice SliceOf(const kernels::Shape& global_shape, const Placement& placement,
                   const MeshCoordinates& coordinates, const MeshDegrees& degrees) {
  LocalSlice slice{global_shape, global_shape};
  for (int dim = 0; dim < global_shape.rank(); ++dim) slice.begin.set(dim, 0);
  for (const Shard& shard : placement.shards) {
    MUSTER_CHECK(shard.dim >= 0 && shard.dim < global_shape.rank())
        << "shard of dim " << shard.dim << " of " << global_shape.ToString();
    const Position position = PositionOn(shard.axis, coordinates, degrees);
    const int64_t size = slice.size[shard.dim];
    MUSTER_CHECK(size % position.degree == 0)
        << "dim " << shard.dim << " of " << global_shape.ToString() << " over " << Name(shard.axis)
        << " " << position.degree;
    // A dim sharded twice is cut within the slice of the first cut.
    slice.size.set(shard.dim, size / position.degree);
    slice.begin.set(shard.dim, slice.begin[shard.dim] + position.index * slice.size[shard.dim]);
  }
  return slice;
}

}  // namespace muster::parallel
