#pragma once
// RMSNorm (Zhang & Sennrich, 2019) with the residual addition in front of it:
//   h = x + residual,   y = h * rstd * weight,   rstd = 1 / sqrt(mean(h^2) + epsilon)
// Memory-bound: reads x and residual, writes h and y. In the backward, d_residual is the gradient
// that reaches h along the residual path from above; d_h is the gradient of both x and residual.
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

struct RmsNormBackwardInputArgs {
  TensorView d_y;         // [T, D]
  TensorView h;           // [T, D] (x when there was no residual)
  TensorView weight;      // [D]
  TensorView rstd;        // accumulator dtype [T]
  TensorView d_residual;  // optional [T, D], added to the result
  TensorView d_h;         // out [T, D]; may alias d_residual or d_y
};
MUSTER_DECLARE_OP(RmsNormBackwardInput)

struct RmsNormBackwardWeightArgs {
  TensorView d_y;       // [T, D]
  TensorView h;         // [T, D]
  TensorView rstd;      // accumulator dtype [T]
  TensorView d_weight;  // accumulated, accumulator dtype [D]
};
MUSTER_DECLARE_OP(RmsNormBackwardWeight)

}  // namespace muster::kernels
