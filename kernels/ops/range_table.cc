#include "kernels/ops/range_table.h"

#include <cstring>
#include <memory>

#include "kernels/base/error.h"

namespace muster::kernels {
namespace {

int64_t NumPieces(int64_t count) { return (count + kRangePiece - 1) / kRangePiece; }

}  // namespace

int64_t RangeTableBytes(int64_t range_bytes, const std::vector<int64_t>& counts) {
  int64_t bytes = range_bytes * static_cast<int64_t>(counts.size());
  for (const int64_t count : counts) {
    bytes += NumPieces(count) * static_cast<int64_t>(sizeof(RangePiece));
  }
  return bytes;
}

RangeTable WriteRangeTable(const void* ranges, int64_t range_bytes,
                           const std::vector<int64_t>& counts, const TensorView& memory,
                           StreamView stream) {
  RangeTable table;
  const int64_t bytes = RangeTableBytes(range_bytes, counts);
  MUSTER_CHECK(bytes == 0 || (memory.dtype == DType::kUInt8 && memory.bytes() >= bytes))
      << "a table of " << counts.size() << " ranges wants uint8[" << bytes << "], found "
      << memory.ToString();
  if (bytes > 0) table.memory = memory.Slice(0, 0, bytes);
  table.num_ranges = static_cast<int64_t>(counts.size());
  auto packed = std::make_shared<std::vector<char>>(static_cast<size_t>(bytes));
  const size_t bytes_of_ranges = static_cast<size_t>(range_bytes * table.num_ranges);
  if (bytes_of_ranges > 0) std::memcpy(packed->data(), ranges, bytes_of_ranges);
  char* to = packed->data() + bytes_of_ranges;
  for (size_t range = 0; range < counts.size(); ++range) {
    for (int64_t index = 0; index < NumPieces(counts[range]); ++index) {
      const RangePiece piece = {static_cast<int32_t>(range), static_cast<int32_t>(index)};
      std::memcpy(to, &piece, sizeof(piece));
      to += sizeof(piece);
    }
    table.num_pieces += NumPieces(counts[range]);
    table.num_elements += counts[range];
  }
  if (bytes == 0) return table;
  // CUDA has taken what it copies from pageable memory when the call returns; a CPU stream has not.
  CopyAsync(memory.data, packed->data(), bytes, stream);
  if (stream.device().type == DeviceType::kCpu) stream.Enqueue([packed] {});
  return table;
}

void CheckRangeTable(const char* op, const RangeTable& table, int64_t range_bytes) {
  const int64_t wanted =
      table.num_ranges * range_bytes + table.num_pieces * static_cast<int64_t>(sizeof(RangePiece));
  MUSTER_CHECK(wanted == 0 ||
               (table.memory.dtype == DType::kUInt8 && table.memory.bytes() == wanted))
      << op << ": a table of " << table.num_ranges << " ranges in " << table.num_pieces
      << " pieces wants uint8[" << wanted << "], found " << table.memory.ToString();
}

}  // namespace muster::kernels
