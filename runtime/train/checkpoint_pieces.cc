#include "runtime/train/checkpoint_pieces.h"

#include <algorithm>

namespace muster::runtime {
namespace {

using kernels::TensorView;
using parallel::Axis;
using parallel::OptimizerSlice;
using parallel::Parameter;

// True on the one rank of each replica group's shards: an axis over which the parameter is not
// sharded, and which is not its replica axis, must be at its first rank.
bool IsFirstCopy(const parallel::Placement& placement, const parallel::Mesh& mesh) {
  const auto first_or_sharded = [&](Axis axis) {
    return mesh.Group(axis).rank() == 0 ||
           std::any_of(placement.shards.begin(), placement.shards.end(),
                       [&](const parallel::Shard& shard) { return shard.axis == axis; });
  };
  if (placement.replica_axis == Axis::kExpertData) {
    return first_or_sharded(Axis::kExpert) && first_or_sharded(Axis::kExpertTensor);
  }
  return first_or_sharded(Axis::kTensor);
}

LogicalRange RangeOf(const Parameter& parameter, int64_t first, int64_t count) {
  return {parameter.global_shape, parameter.slice.begin, parameter.slice.size, first, count};
}

TensorView Flat(const TensorView& tensor) { return tensor.Reshape({tensor.num_elements()}); }

}  // namespace

std::vector<SavedPiece> SavedPieces(const TrainingState& state) {
  std::vector<SavedPiece> pieces;
  for (const OptimizerSlice& slice : state.optimizer->Slices()) {
    const Parameter& parameter = (*state.parameters)[slice.parameter];
    if (!IsFirstCopy(parameter.placement, *state.mesh)) continue;
    int64_t begin = 0, end = slice.count;
    if (state.optimizer->zero_level() == 0) {  // every replica has all: each saves an even part
      const auto& replicas = state.mesh->Group(parameter.placement.replica_axis);
      begin = slice.count * replicas.rank() / replicas.size();
      end = slice.count * (replicas.rank() + 1) / replicas.size();
    }
    if (begin == end) continue;
    const LogicalRange range = RangeOf(parameter, slice.begin + begin, end - begin);
    const std::string& name = parameter.global_name;
    pieces.push_back({"weight/" + name, range, slice.master.Slice(0, begin, end)});
    pieces.push_back({"moment1/" + name, range, slice.moment1.Slice(0, begin, end)});
    pieces.push_back({"moment2/" + name, range, slice.moment2.Slice(0, begin, end)});
  }
  const bool saves_buffers = state.mesh->Group(Axis::kDenseReplica).rank() == 0 &&
                             state.mesh->Group(Axis::kTensor).rank() == 0;
  for (const NamedBuffer& buffer : state.Buffers()) {
    if (!saves_buffers) break;
    pieces.push_back(
        {"buffer/" + buffer.global_name, LogicalRange::Whole(buffer.tensor.shape), buffer.tensor});
  }
  return pieces;
}

std::vector<WantedPiece> WantedPieces(const TrainingState& state) {
  std::vector<WantedPiece> pieces;
  for (const Parameter& parameter : *state.parameters) {
    const int64_t count = parameter.weight.num_elements();
    pieces.push_back({"weight/" + parameter.global_name, RangeOf(parameter, 0, count),
                      kernels::AccumulatorDType(parameter.weight.dtype), Flat(parameter.weight)});
  }
  for (const OptimizerSlice& slice : state.optimizer->Slices()) {
    const Parameter& parameter = (*state.parameters)[slice.parameter];
    const LogicalRange range = RangeOf(parameter, slice.begin, slice.count);
    const std::string& name = parameter.global_name;
    const kernels::DType dtype = slice.moment1.dtype;
    if (parameter.weight.dtype != dtype) {
      pieces.push_back({"weight/" + name, range, dtype, slice.master});
    }
    pieces.push_back({"moment1/" + name, range, dtype, slice.moment1});
    pieces.push_back({"moment2/" + name, range, dtype, slice.moment2});
  }
  for (const NamedBuffer& buffer : state.Buffers()) {
    pieces.push_back({"buffer/" + buffer.global_name, LogicalRange::Whole(buffer.tensor.shape),
                      buffer.tensor.dtype, buffer.tensor});
  }
  return pieces;
}

}  // namespace muster::runtime
