#pragma once
// A matmul per expert over rows sorted by expert: expert e owns rows [offsets[e], offsets[e+1]).
// The offsets are read in stream order, never by the host; rows past offsets[E] are not touched,
// an expert without rows is legal. 2 rows N K FLOPs each.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct GroupedMatmulForwardArgs {
  TensorView x;        // [R, K]
  TensorView w;        // [E, N, K]
  TensorView y;        // out [R, N]: y_r = w_e x_r
  TensorView offsets;  // int64 [E + 1]
};
MUSTER_DECLARE_OP(GroupedMatmulForward)

struct GroupedMatmulBackwardInputArgs {
  TensorView d_y;      // [R, N]
  TensorView w;        // [E, N, K]
  TensorView d_x;      // out [R, K]: d_x_r = w_e^T d_y_r
  TensorView offsets;  // int64 [E + 1]
};
MUSTER_DECLARE_OP(GroupedMatmulBackwardInput)

struct GroupedMatmulBackwardWeightArgs {
  TensorView d_y;      // [R, N]
  TensorView x;        // [R, K]
  TensorView d_w;      // accumulated, accumulator dtype [E, N, K]: d_w_e += sum_r d_y_r x_r^T
  TensorView offsets;  // int64 [E + 1]
};
MUSTER_DECLARE_OP(GroupedMatmulBackwardWeight)

}  // namespace muster::kernels
