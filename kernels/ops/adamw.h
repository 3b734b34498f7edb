#pragma once
// AdamW (Loshchilov & Hutter, 2019) over a flat range, in the accumulator dtype:
//   g = grad * grad_scale,  m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
//   master -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + epsilon) + weight_decay master),
//   weight = cast(master).
// Fuses unscale, clip and cast: one pass, 28 bytes a weight in fp32.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct AdamWArgs {
  TensorView grad;        // accumulator dtype [N]
  TensorView master;      // in place, accumulator dtype [N]
  TensorView moment1;     // in place, accumulator dtype [N]
  TensorView moment2;     // in place, accumulator dtype [N]
  TensorView weight;      // out [N], storage dtype; may be the same tensor as master
  TensorView grad_scale;  // accumulator dtype [1], read in stream order: the clip coefficient. A
                          // value that is not finite or is 0 skips the update of this range.
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0;
  int64_t step = 1;  // t, from 1: number of updates including this one
};
MUSTER_DECLARE_OP(AdamW)

}  // namespace muster::kernels
