#pragma once
// The row counts of an all-to-all, as one rank sees them.
#include <cstdint>

#include "absl/status/status.h"

namespace muster::parallel {

struct RowCounts {
  const int64_t* send;     // [size] rows to each rank
  const int64_t* receive;  // [size] rows from each rank
  int size = 0;
  int rank = 0;  // of this process

  // Errors: a count that does not fit the tensors' rows; a rank that sends itself another number
  // of rows than it expects.
  absl::Status Check(int64_t send_rows, int64_t receive_rows) const;
};

}  // namespace muster::parallel
