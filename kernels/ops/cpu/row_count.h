#pragma once
// How many rows of a planned bound are in use: read from memory when the op runs.
#include "kernels/base/error.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels::cpu {

// `row_count` is int64 [1] or null, which means all `bound` rows.
inline int64_t RowsInUse(const char* op, const TensorView& row_count, int64_t bound) {
  if (!row_count) return bound;
  const int64_t rows = *row_count.as<int64_t>();
  MUSTER_CHECK(rows >= 0 && rows <= bound)
      << op << ": row_count is " << rows << ", the planned bound is " << bound;
  return rows;
}

}  // namespace muster::kernels::cpu
