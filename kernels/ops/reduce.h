#pragma once
// Reductions and small elementwise ops on whole tensors. All sums run in a fixed order.
#include "kernels/ops/op.h"
#include "kernels/ops/range_table.h"

namespace muster::kernels {

// out += sum of squares over flat ranges, all in one launch, in fp64 whatever the input.
struct SquaresRange {
  const void* x;  // [count]
  int64_t count;
};
struct SumOfSquaresArgs {
  RangeTable table;               // of SquaresRange
  DType dtype = DType::kFloat32;  // of all ranges
  TensorView out;                 // accumulated, fp64 [1]
};
MUSTER_DECLARE_OP(SumOfSquares)

// out += scale * sum, in fp64 whatever the input.
struct SumArgs {
  TensorView x;    // any shape, contiguous
  TensorView out;  // accumulated, fp64 [1]
  double scale = 1.0;
};
MUSTER_DECLARE_OP(Sum)

// A bias gradient: out_n += sum_t x_tn.
struct ColumnSumArgs {
  TensorView x;    // [T, N]
  TensorView out;  // accumulated, accumulator dtype [N]
};
MUSTER_DECLARE_OP(ColumnSum)

struct AddArgs {
  TensorView a, b;  // equal shapes
  TensorView out;   // may alias a or b
};
MUSTER_DECLARE_OP(Add)

// out = sum over i of inputs[i], in the order of i, in the accumulator dtype: what a
// reduce-scatter does with the pieces it receives.
struct SumSlicesArgs {
  TensorView inputs;  // [n, N]
  TensorView out;     // [N]; may alias inputs[0]
};
MUSTER_DECLARE_OP(SumSlices)

// From the sum of squares of the whole gradient: norm = sqrt(sum), and the coefficient
//   scale = 1 if max_norm is 0 or norm <= max_norm, else max_norm / (norm + 1e-6);
// scale = 0 if the sum is not finite, which makes AdamW skip.
struct ClipCoefficientArgs {
  TensorView sum_of_squares;  // fp64 [1]
  TensorView norm;            // out, fp64 [1]
  TensorView scale;           // out, accumulator dtype [1]
  double max_norm = 0;
};
MUSTER_DECLARE_OP(ClipCoefficient)

}  // namespace muster::kernels
