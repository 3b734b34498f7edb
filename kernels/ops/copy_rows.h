#pragma once
// Moves a slice of a tensor into another: packs heads out of a fused projection before they travel,
// and adds what comes back.
#include "kernels/ops/op.h"

namespace muster::kernels {

// out = x, or out += x, in the accumulator dtype of out and rounded to out's dtype.
struct CopyRowsArgs {
  TensorView x;    // [A, N, W]: rows of W contiguous elements, other strides free
  TensorView out;  // the same shape; overlaps no x
  bool accumulate = false;
};
MUSTER_DECLARE_OP(CopyRows)

}  // namespace muster::kernels
