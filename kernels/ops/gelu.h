#pragma once
// GELU with the tanh approximation of GPT-2 (Hendrycks & Gimpel, 2016), optionally scaled per row
// by a router weight (experts):
//   y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) * row_weight
#include "kernels/ops/op.h"

namespace muster::kernels {

struct GeluForwardArgs {
  TensorView x;           // [R, F]
  TensorView row_weight;  // optional, accumulator dtype [R]
  TensorView row_count;   // optional int64 [1]: rows in use, read in stream order; default all
  TensorView out;         // [R, F]
};
MUSTER_DECLARE_OP(GeluForward)

struct GeluBackwardArgs {
  TensorView d_out;         // [R, F]
  TensorView x;             // [R, F]
  TensorView row_weight;    // optional, accumulator dtype [R]
  TensorView row_count;     // optional int64 [1]
  TensorView d_x;           // out [R, F]; may alias x
  TensorView d_row_weight;  // out, with row_weight: accumulator dtype [R]
  // Optional, accumulated, accumulator dtype [F]: the gradient of a bias in x, the sum over rows of
  // d_x as stored. Not with row_weight or row_count.
  TensorView d_bias = {};
};
MUSTER_DECLARE_OP(GeluBackward)

}  // namespace muster::kernels
