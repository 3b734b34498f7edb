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

// The part of [begin, begin + size) at a position.
struct Interval {
  int64_t begin, size;
};
Interval PartOf(Interval whole, const Shard& shard, const Position& position) {
  MUSTER_CHECK(shard.uneven || whole.size % position.degree == 0)
      << whole.size << " elements of dim " << shard.dim << " over " << Name(shard.axis) << " "
      << position.degree;
  const int64_t begin = whole.size * position.index / position.degree;
  const int64_t end = whole.size * (position.index + 1) / position.degree;
  return {whole.begin + begin, end - begin};
}

// The parts of the segments of a fused dim.
std::vector<Interval> PartsOfSegments(const Shard& shard, int64_t dim_size,
                                      const Position& position) {
  std::vector<Interval> parts;
  int64_t begin = 0;
  for (const int64_t segment : shard.segments) {
    parts.push_back(PartOf({begin, segment}, shard, position));
    begin += segment;
  }
  MUSTER_CHECK_EQ(begin, dim_size) << "segments of dim " << shard.dim;
  return parts;
}

// The boxes of a slice whose dim `dim` consists of `parts`. A box must lie in one piece in the
// local tensor, so that the dims before it are cut into single indices.
std::vector<Box> BoxesOf(const LocalSlice& slice, int dim, const std::vector<Interval>& parts) {
  int64_t num_outer = 1;
  for (int d = 0; d < dim; ++d) num_outer *= slice.size[d];
  std::vector<Box> boxes;
  for (int64_t outer = 0; outer < num_outer; ++outer) {
    Box box{slice.begin, slice.size};
    int64_t rest = outer;
    for (int d = dim - 1; d >= 0; --d) {
      box.begin.set(d, slice.begin[d] + rest % slice.size[d]);
      box.size.set(d, 1);
      rest /= slice.size[d];
    }
    for (const Interval& part : parts) {
      box.begin.set(dim, part.begin);
      box.size.set(dim, part.size);
      boxes.push_back(box);
    }
  }
  return boxes;
}

}  // namespace

LocalSlice SliceOf(const kernels::Shape& global_shape, const Placement& placement,
                   const MeshCoordinates& coordinates, const MeshDegrees& degrees) {
  LocalSlice slice{global_shape, global_shape, {}};
  for (int dim = 0; dim < global_shape.rank(); ++dim) slice.begin.set(dim, 0);
  const Shard* fused = nullptr;
  for (const Shard& shard : placement.shards) {
    MUSTER_CHECK(shard.dim >= 0 && shard.dim < global_shape.rank())
        << "shard of dim " << shard.dim << " of " << global_shape.ToString();
    const Position position = PositionOn(shard.axis, coordinates, degrees);
    if (!shard.segments.empty() && position.degree > 1) {
      MUSTER_CHECK(fused == nullptr && slice.size[shard.dim] == global_shape[shard.dim])
          << "dim " << shard.dim << " of " << global_shape.ToString()
          << " is fused and cut more than once";
      fused = &shard;
      continue;
    }
    MUSTER_CHECK(fused == nullptr || fused->dim != shard.dim) << "a fused dim is cut twice";
    // A dim sharded twice is cut within the slice of the first cut.
    const Interval part = PartOf({slice.begin[shard.dim], slice.size[shard.dim]}, shard, position);
    slice.begin.set(shard.dim, part.begin);
    slice.size.set(shard.dim, part.size);
  }
  if (fused == nullptr) {
    slice.boxes = {{slice.begin, slice.size}};
    return slice;
  }
  const std::vector<Interval> parts = PartsOfSegments(
      *fused, global_shape[fused->dim], PositionOn(fused->axis, coordinates, degrees));
  slice.boxes = BoxesOf(slice, fused->dim, parts);
  int64_t size = 0;
  for (const Interval& part : parts) size += part.size;
  slice.begin.set(fused->dim, parts.front().begin);
  slice.size.set(fused->dim, size);
  return slice;
}

}  // namespace muster::parallel
