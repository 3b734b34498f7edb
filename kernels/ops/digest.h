#pragma once
// Digests (kernels/base/word_digest.h) of ranges of one tensor, all in one launch: equal bits,
// equal digests, wherever they lie. One pass over the tensor.
#include "kernels/ops/op.h"
#include "kernels/ops/range_table.h"

namespace muster::kernels {

struct DigestRange {
  int64_t begin, count;  // elements of x
};
struct DigestArgs {
  TensorView x;      // [N], any storage dtype
  RangeTable table;  // of DigestRange
  TensorView out;    // accumulated, int64 [ranges]: the bits of unsigned sums
};
MUSTER_DECLARE_OP(Digest)

}  // namespace muster::kernels
