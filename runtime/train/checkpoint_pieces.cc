#include "runtime/train/checkpoint_pieces.h"

#include <algorithm>

namespace muster::runtime {
namespace {

using kernels::TensorView;
using parallel::Axis;
using parallel::OptimizerSlice;
using parallel::Parameter;

// Part of the elements [first, first + count) of a local slice: a range of one of its boxes.
struct BoxRange {
  LogicalRange range;
  int64_t at;  // of its first element, counted from `first`
};
std::vector<BoxRange> RangesOf(const Parameter& parameter, int64_t first, int64_t count) {
  std::vector<BoxRange> ranges;
  int64_t box_begin = 0;
  for (const parallel::Box& box : parameter.slice.boxes) {
    const int64_t box_end = box_begin + box.size.num_elements();
    const int64_t begin = std::max(first, box_begin), end = std::min(first + count, box_end);
    if (begin < end) {
      ranges.push_back(
          {{parameter.global_shape, box.begin, box.size, begin - box_begin, end - begin},
           begin - first});
    }
    box_begin = box_end;
  }
  return ranges;
}

}  // namespace

std::vector<SavedPiece> SavedPieces(const TrainingState& state) {
  std::vector<SavedPiece> pieces;
  for (const OptimizerSlice& slice : state.optimizer->Slices()) {
    const Parameter& parameter = (*state.parameters)[slice.parameter];
    if (parameter.placement.tie == parallel::Tie::kCopy) continue;  // the owner saves it
    int64_t begin = 0, end = slice.count;
    // Of the ranks that hold the same state each saves an even part.
    const parallel::ProcessGroup* copies =
        state.optimizer->zero_level() == 0
            ? &state.mesh->Group(parameter.placement.replica_axis)
            : state.mesh->CopyGroup(parameter.placement.replica_axis);
    if (copies != nullptr) {
      begin = slice.count * copies->rank() / copies->size();
      end = slice.count * (copies->rank() + 1) / copies->size();
    }
    const std::string& name = parameter.global_name;
    for (const BoxRange& part : RangesOf(parameter, slice.begin + begin, end - begin)) {
      const auto of = [&](const TensorView& tensor) {
        return tensor.Slice(0, begin + part.at, begin + part.at + part.range.count);
      };
      pieces.push_back({"weight/" + name, part.range, of(slice.master)});
      pieces.push_back({"moment1/" + name, part.range, of(slice.moment1)});
      pieces.push_back({"moment2/" + name, part.range, of(slice.moment2)});
    }
  }
  const bool saves_buffers = state.mesh->Group(Axis::kWorld).rank() == 0;
  for (const NamedBuffer& buffer : state.Buffers()) {
    if (!saves_buffers) break;
    pieces.push_back(
        {"buffer/" + buffer.global_name, LogicalRange::Whole(buffer.tensor.shape), buffer.tensor});
  }
  return pieces;
}

std::vector<WantedPiece> WantedPieces(const TrainingState& state) {
  std::vector<WantedPiece> pieces;
  const auto sharded = [&](parallel::ParameterId id) {  // ZeRO 3: no rank holds all of it
    return state.buckets->shards_weights(state.layout.bucket_of[static_cast<size_t>(id)]);
  };
  for (parallel::ParameterId id = 0; id < state.parameters->size(); ++id) {
    if (sharded(id)) continue;
    const Parameter& parameter = (*state.parameters)[id];
    const TensorView flat = Flat(parameter.weight);
    for (const BoxRange& part : RangesOf(parameter, 0, flat.num_elements())) {
      pieces.push_back({"weight/" + parameter.global_name, part.range,
                        kernels::AccumulatorDType(flat.dtype),
                        flat.Slice(0, part.at, part.at + part.range.count)});
    }
  }
  for (const OptimizerSlice& slice : state.optimizer->Slices()) {
    const Parameter& parameter = (*state.parameters)[slice.parameter];
    const std::string& name = parameter.global_name;
    const kernels::DType dtype = slice.moment1.dtype;
    for (const BoxRange& part : RangesOf(parameter, slice.begin, slice.count)) {
      const auto add = [&](const char* kind, const TensorView& tensor) {
        pieces.push_back(
            {kind + name, part.range, dtype, tensor.Slice(0, part.at, part.at + part.range.count)});
      };
      if (sharded(slice.parameter)) add("weight/", slice.weight);
      if (parameter.weight.dtype != dtype) add("weight/", slice.master);
      add("moment1/", slice.moment1);
      add("moment2/", slice.moment2);
    }
  }
  for (const NamedBuffer& buffer : state.Buffers()) {
    pieces.push_back({"buffer/" + buffer.global_name, LogicalRange::Whole(buffer.tensor.shape),
                      buffer.tensor.dtype, buffer.tensor});
  }
  return pieces;
}

}  // namespace muster::runtime
