#pragma once
// Many flat ranges for an operator that takes all of them in one launch: a list of Range (a struct
// of addresses on the device, with an int64_t count of elements), then the pieces into which a
// launch cuts them. It lies in memory of the device that its owner plans, and is written once, when
// the addresses are known.
#include <cstdint>
#include <vector>

#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels {

constexpr int64_t kRangePiece = 4096;  // elements of a piece; the last of a range may have fewer

// Elements [index * kRangePiece, ...) of one range.
struct RangePiece {
  int32_t range, index;
};

struct RangeTable {
  TensorView memory;  // uint8 [RangeTableBytes]: num_ranges Range, then num_pieces RangePiece
  int64_t num_ranges = 0, num_pieces = 0, num_elements = 0;

  template <typename Range>
  const Range* ranges() const {
    return static_cast<const Range*>(memory.data);
  }
  template <typename Range>
  const RangePiece* pieces() const {
    return reinterpret_cast<const RangePiece*>(ranges<Range>() + num_ranges);
  }
};

// What a table of ranges of these counts takes; `range_bytes` is sizeof(Range).
int64_t RangeTableBytes(int64_t range_bytes, const std::vector<int64_t>& counts);

// Enqueues the writing of a table; `memory` is uint8 [RangeTableBytes] or more.
RangeTable WriteRangeTable(const void* ranges, int64_t range_bytes,
                           const std::vector<int64_t>& counts, const TensorView& memory,
                           StreamView stream);
template <typename Range>
RangeTable WriteRangeTable(const std::vector<Range>& ranges, const TensorView& memory,
                           StreamView stream) {
  static_assert(sizeof(Range) % alignof(RangePiece) == 0);
  std::vector<int64_t> counts;
  for (const Range& range : ranges) counts.push_back(range.count);
  return WriteRangeTable(ranges.data(), sizeof(Range), counts, memory, stream);
}

// The contract of an operator's `table` argument.
void CheckRangeTable(const char* op, const RangeTable& table, int64_t range_bytes);

}  // namespace muster::kernels
