#pragma once
// RMSNorm (Zhang & Sennrich, 2019) with the residual addition in front of it:
//   h = x + residual,   y = h * rstd * weight,   rstd = 1 / sqrt(mean(h^2) + epsilon)
// Memory-bound: reads x and residual, writes h and y. In the backward, d_residual is the gradient
// that reaches h along the residual path from above; d_h is the gradient of both x and residual.
// With n = h rstd and g = d_y weight:
//   d_h = rstd (g - n mean(g n)) + d_residual,   d_weight += sum over t of d_y n
// in one pass over d_y and h; the sum over t runs in an order that T and D alone determine.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct RmsNormForwardArgs {
  TensorView x;         // [T, D]
  TensorView residual;  // optional [T, D]
  TensorView weight;    // [D]
  TensorView h;         // out [T, D]; may alias x or residual; unused (null) without residual
  TensorView y;         // out [T, D]
  TensorView rstd;      // out, accumulator dtype [T]
  float epsilon = 1e-5f;
};
MUSTER_DECLARE_OP(RmsNormForward)

struct RmsNormBackwardArgs {
  TensorView d_y;         // [T, D]
  TensorView h;           // [T, D] (x when there was no residual)
  TensorView weight;      // [D]
  TensorView rstd;        // accumulator dtype [T]
  TensorView d_residual;  // optional [T, D], added to the result
  TensorView d_h;         // out [T, D]; may alias d_residual or d_y
  TensorView d_weight;    // optional, accumulated, accumulator dtype [D]
};
MUSTER_DECLARE_OP(RmsNormBackward)

}  // namespace muster::kernels
