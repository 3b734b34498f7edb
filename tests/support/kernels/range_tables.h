#pragma once
// Tables of ranges over tensors that lie in one piece, for tests and benches: ends[i] to ends[i +
// 1] is a range.
#include <vector>

#include "kernels/ops/adamw.h"
#include "kernels/ops/digest.h"
#include "kernels/ops/reduce.h"

namespace muster::kernels {

// A table in memory of its own, on the stream's device.
template <typename Range>
struct OwnedTable {
  OwnedTable(const std::vector<Range>& ranges, StreamView stream) {
    std::vector<int64_t> counts;
    for (const Range& range : ranges) counts.push_back(range.count);
    auto allocated =
        Tensor::Allocate(DType::kUInt8, {RangeTableBytes(sizeof(Range), counts)}, stream.device());
    MUSTER_CHECK_OK(allocated.status());
    memory = *std::move(allocated);
    table = WriteRangeTable(ranges, memory.view(), stream);
  }
  Tensor memory;
  RangeTable table;
};

inline std::vector<SquaresRange> SquaresRanges(const TensorView& x,
                                               const std::vector<int64_t>& ends) {
  const TensorView flat = x.Reshape({x.num_elements()});
  std::vector<SquaresRange> ranges;
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    const TensorView part = flat.Slice(0, ends[i], ends[i + 1]);
    ranges.push_back({part.data, part.num_elements()});
  }
  return ranges;
}

// Flat tensors of equal size, with the weight decays of the ranges.
struct AdamWTensors {
  TensorView grad, master, moment1, moment2, weight;

  std::vector<AdamWRange> Ranges(const std::vector<int64_t>& ends,
                                 const std::vector<float>& weight_decays) const {
    std::vector<AdamWRange> ranges;
    for (size_t i = 0; i + 1 < ends.size(); ++i) {
      const auto part = [&](const TensorView& view) {
        return view.Slice(0, ends[i], ends[i + 1]).data;
      };
      ranges.push_back({.grad = part(grad),
                        .master = part(master),
                        .moment1 = part(moment1),
                        .moment2 = part(moment2),
                        .weight = part(weight),
                        .count = ends[i + 1] - ends[i],
                        .weight_decay = weight_decays[i]});
    }
    return ranges;
  }
};

}  // namespace muster::kernels
