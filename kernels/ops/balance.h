#pragma once
// Bookkeeping of how tokens spread over the experts of L layers, once a step.
#include "kernels/ops/op.h"

namespace muster::kernels {

// total += counts.
struct AddCountsArgs {
  TensorView counts;  // int64, any shape, contiguous
  TensorView total;   // in place, int64, the same shape
};
MUSTER_DECLARE_OP(AddCounts)

// From the choices of one step, counted over the whole batch:
//   load_e = top_k count_e / sum of counts   (top_k / E if there are none)
//   bias_e += rate sign(mean count - count_e)   (Wang et al., "Auxiliary-loss-free load balancing",
//                                                2024: experts with too few tokens rise)
// The sign is that of the integer sum of counts - E count_e, so every rank finds the same one.
struct UpdateBalanceArgs {
  TensorView counts;  // int64 [L, E]
  TensorView load;    // optional, out, fp32 or fp64 [L, E]
  TensorView bias;    // optional, in place, fp32 or fp64 [L, E]
  int top_k = 1;
  double rate = 0;
};
MUSTER_DECLARE_OP(UpdateBalance)

}  // namespace muster::kernels
