#pragma once
// c = op(a) op(b) (+ c) (+ bias). A linear layer with weight [N, K] (out, in) is
//   forward       y  = x w^T     {x, w, y, b_transposed}
//   input grad    dx = dy w      {dy, w, dx}
//   weight grad   dw += dy^T x   {dy, x, dw, a_transposed, accumulate}
// 2 M N K FLOPs. Rows may be strided (the last dim is contiguous). c may be fp32 when a and b are
// bf16 (weight gradients); with accumulate, c must be the accumulator dtype or equal a's.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct MatmulArgs {
  TensorView a;     // [M, K], or [K, M] if a_transposed
  TensorView b;     // [K, N], or [N, K] if b_transposed
  TensorView c;     // [M, N]
  TensorView bias;  // optional [N], added to every row; dtype of c; not with accumulate
  bool a_transposed = false;
  bool b_transposed = false;
  bool accumulate = false;
};
MUSTER_DECLARE_OP(Matmul)

}  // namespace muster::kernels
