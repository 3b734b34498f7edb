#pragma once
// LayerNorm (Ba et al., 2016) with the residual addition in front of it:
//   h = x + residual,   y = (h - mean) * rstd * weight + bias,   rstd = 1 / sqrt(var(h) + epsilon)
// var is the biased variance. d_residual and d_h as in kernels/ops/rms_norm.h; with
// n = (h - mean) rstd and g = d_y weight:
//   d_h = rstd (g - mean(g) - n mean(g n)) + d_residual,
//   d_weight += sum over t of d_y n,   d_bias += sum over t of d_y
#include "kernels/ops/op.h"

namespace muster::kernels {

struct LayerNormForwardArgs {
  TensorView x;         // [T, D]
  TensorView residual;  // optional [T, D]
  TensorView weight;    // [D]
  TensorView bias;      // optional [D]
  TensorView h;         // out [T, D]; may alias x or residual; unused (null) without residual
  TensorView y;         // out [T, D]
  TensorView mean;      // out, accumulator dtype [T]
  TensorView rstd;      // out, accumulator dtype [T]
  float epsilon = 1e-5f;
};
MUSTER_DECLARE_OP(LayerNormForward)

struct LayerNormBackwardArgs {
  TensorView d_y;         // [T, D]
  TensorView h;           // [T, D]
  TensorView weight;      // [D]
  TensorView mean, rstd;  // accumulator dtype [T]
  TensorView d_residual;  // optional [T, D], added to the result
  TensorView d_h;         // out [T, D]; may alias d_residual or d_y
  TensorView d_weight;    // optional, accumulated, accumulator dtype [D]
  TensorView d_bias;      // optional, accumulated, accumulator dtype [D]
};
MUSTER_DECLARE_OP(LayerNormBackward)

}  // namespace muster::kernels
