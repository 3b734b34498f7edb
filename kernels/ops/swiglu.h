#pragma once
// SwiGLU (Shazeer, "GLU variants improve transformer", 2020) on a fused projection, optionally
// scaled per row by a router weight:
//   out_f = silu(gate_f) * up_f * row_weight,   gate = x[:, :F], up = x[:, F:],
//   silu(z) = z / (1 + exp(-z)).
#include "kernels/ops/op.h"

namespace muster::kernels {

struct SwiGluForwardArgs {
  TensorView gate_up;     // [R, 2F]
  TensorView row_weight;  // optional, accumulator dtype [R]
  TensorView row_count;   // optional int64 [1]: rows in use, read in stream order; default all
  TensorView out;         // [R, F]
};
MUSTER_DECLARE_OP(SwiGluForward)

struct SwiGluBackwardArgs {
  TensorView d_out;         // [R, F]
  TensorView gate_up;       // [R, 2F]
  TensorView row_weight;    // optional, accumulator dtype [R]
  TensorView row_count;     // optional int64 [1]
  TensorView d_gate_up;     // out [R, 2F]; may alias gate_up
  TensorView d_row_weight;  // out, with row_weight: accumulator dtype [R]
};
MUSTER_DECLARE_OP(SwiGluBackward)

}  // namespace muster::kernels
